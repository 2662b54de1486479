"""Scene graphs and semantic maps of COCO, from their official files."""

import json

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.objects import mask_centroids
from tests.helpers import coco_files


@pytest.fixture
def root(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  coco_files.write_all(tmp_path)
  return tmp_path


def write_graphs(root, part='val2017'):
  graphs = [
    {'image_id': 9, 'id': 1, 'caption': 'person left of dog A , dog A above b'},
    {'image_id': 25, 'id': 2, 'caption': 'man inside banner.'},
  ]
  path = root / 'coco/2017/annotations' / f'scenegraph_{part}.json'
  coco_files.write(path, graphs, [coco_files.image(9)], [])
  return path


def graphs_config(root, **fields):
  return coco_files.make_config(root, 'scene_graph', max_length=12, **fields)


def test_texts_of_graph_files_are_taken_as_they_are(root, monkeypatch):
  write_graphs(root)
  # No mask is read for them.
  monkeypatch.setattr(mask_centroids, 'centroid', None)
  reader = data.create(graphs_config(root), 'val')
  assert len(reader) == 2  # image 10 has no graph
  batch = coco_files.one(reader, 9)
  assert batch['caption'][0] == b'person left of dog A , dog A above b'
  # [CLS] person left of dog a , dog a above b [SEP]
  want = [2, 8, 10, 12, 7, 4, 17, 7, 4, 13, 18, 3]
  assert batch['condition_ids'][0].tolist() == want
  assert 'triples' not in batch
  both = reader.batch(np.arange(2), np.zeros(2, np.uint64))
  assert both['caption'].tolist()[1] == b'person left of dog A , dog A above b'


def test_the_config_says_where_graphs_are_from(root):
  batch = coco_files.one(data.create(graphs_config(root), 'val'), 9)
  assert 'triples' in batch
  with pytest.raises(
    FileNotFoundError, match='scenegraph_val2017.json .scene graphs'
  ):
    data.create(graphs_config(root, graphs='file'), 'val')
  write_graphs(root)
  batch = coco_files.one(
    data.create(graphs_config(root, graphs='rule'), 'val'), 9
  )
  assert 'triples' in batch
  described = data.create(graphs_config(root), 'val').identity()
  assert any('scenegraph' in name for name in described['files'])


def write_maps(root, values, part='val2017', base='stuffthingmaps'):
  """Writes the map of image 9, and maps of the class 0 of the others."""
  folder = root / 'coco/2017' / base / part
  folder.mkdir(parents=True, exist_ok=True)
  others = {10: np.zeros((8, 4)), 25: np.zeros((4, 8))}
  for image_id, pixels in {9: values, **others}.items():
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    image.save(folder / f'{image_id:012d}.png')
  return folder / f'{9:012d}.png'


# Of 8x4 px: person 0, banner 91, the last class 181, unlabelled 255.
MAP = np.zeros((4, 8), np.uint8)
MAP[:, 3] = 91
MAP[1, 4] = 181
MAP[2:, 5] = 255


def map_config(root, **fields):
  fields = {'map_classes': 183, **fields}
  return coco_files.make_config(root, 'map', **fields)


@pytest.mark.parametrize('base', ['stuffthingmaps', 'cocostuffthings'])
def test_maps_are_category_ids_with_0_for_unlabelled(root, base):
  write_maps(root, MAP, base=base)
  batch = coco_files.one(data.create(map_config(root), 'val'), 9)
  # Columns 2 to 5 of the image.
  want = [[1, 92, 1, 1], [1, 92, 182, 1], [1, 92, 1, 0], [1, 92, 1, 0]]
  assert batch['mask'].dtype == np.uint8
  assert batch['mask'][0].tolist() == want


def test_maps_are_resized_to_nearest_pixels_and_mirrored(root):
  write_maps(root, MAP, part='train2017')
  config = map_config(root, image_size=2, flip=True)
  reader = data.create(config, 'train')
  for draw in range(8):
    batch = coco_files.one(reader, 9, draw)
    # The middles of 2 x 2 px lie on the second pixel: columns 3 and 5.
    want = np.array([[92, 1], [92, 0]])
    want = want[:, ::-1] if batch['flipped'][0] else want
    np.testing.assert_array_equal(batch['mask'][0], want)


def test_maps_come_with_other_tasks_where_they_are_asked_for(root):
  write_maps(root, MAP)
  config = coco_files.make_config(
    root, 'layout', maps=('mask',), map_classes=183
  )
  batch = coco_files.one(data.create(config, 'val'), 9)
  assert batch['mask'].shape == (1, 4, 4)
  assert batch['condition_ids'].shape[0] == 1
  assert 'mask' not in coco_files.one(
    data.create(coco_files.make_config(root, 'layout'), 'val'), 9
  )


def test_maps_that_are_missing_or_do_not_fit_are_refused(root):
  with pytest.raises(FileNotFoundError, match='stuffthingmaps/val2017 .maps'):
    data.create(map_config(root), 'val')
  path = write_maps(root, MAP)
  with pytest.raises(errors.UserError, match='map_classes is 182, must be at'):
    data.create(map_config(root, map_classes=182), 'val')
  with pytest.raises(ValueError, match='year is 2014, must be 2017 for sem'):
    data.create(map_config(root, year=2014, use_stuff=False), 'val')
  reader = data.create(map_config(root, broken_share=0), 'val')
  write_maps(root, MAP[:2])
  with pytest.raises(errors.UserError, match=f'{path.name}: 8x2 px, its image'):
    coco_files.one(reader, 9)


def test_graph_files_are_checked(root):
  path = write_graphs(root)
  path.write_text(json.dumps({'annotations': [{'image_id': 'x'}] * 3}))
  with pytest.raises(errors.UserError, match='3 of 3 annotations are left out'):
    data.create(graphs_config(root), 'val')
