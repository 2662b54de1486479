from ml_collections import ConfigDict
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data


def test_unknown_names_list_the_allowed_ones():
  config = ConfigDict({'data': {'name': 'cifar'}})
  with pytest.raises(ValueError, match="'cifar'.*shapes, image_folder, coco"):
    data.create(config, 'train')
  with pytest.raises(ValueError, match="'dev'.*train, val, test"):
    data.create(config, 'dev')


@pytest.mark.parametrize('name', data.SHARDED)
def test_sets_of_shards_say_which_reader_serves(name):
  config = config_lib.base('ldm')
  config.data.name = name
  with pytest.raises(ValueError, match='shards; use .* tar_shards .or parquet'):
    data.create(config, 'train')


def test_sets_of_boxes_have_no_semantic_maps():
  config = config_lib.base('ldm')
  config.data.name, config.data.maps = 'openimages', ('edges', 'mask')
  with pytest.raises(
    ValueError, match=r"'mask'\), must be without 'mask' .* openimages: shapes"
  ):
    data.create(config, 'train')


def test_cameras_are_of_folders_alone():
  config = config_lib.base('ldm')
  config.condition.also = 'camera'
  with pytest.raises(ValueError, match="'camera', which .* = shapes does not"):
    data.create(config, 'train')
