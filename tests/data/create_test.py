from ml_collections import ConfigDict
import pytest

from pyramid_jax import data


def test_unknown_names_list_the_allowed_ones():
  config = ConfigDict({'data': {'name': 'cifar'}})
  with pytest.raises(ValueError, match="'cifar'.*shapes, image_folder, coco"):
    data.create(config, 'train')
  with pytest.raises(ValueError, match="'dev'.*train, val, test"):
    data.create(config, 'dev')
