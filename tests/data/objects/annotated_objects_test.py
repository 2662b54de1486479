import pathlib

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.data.objects import annotated_objects
from pyramid_jax.data.objects import object_index


def test_boxes_in_crop_are_true_intersections():
  boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.25, 0.5, 1.0, 1.0]])
  crop = np.array([0.25, 0.0, 0.75, 1.0])
  got = annotated_objects.boxes_in_crop(boxes, crop, False)
  np.testing.assert_allclose(got, [[0, 0, 0.5, 0.5], [0, 0.5, 1, 1]])
  got = annotated_objects.boxes_in_crop(boxes, crop, True)
  np.testing.assert_allclose(got, [[0.5, 0, 1, 0.5], [0, 0.5, 1, 1]])


@pytest.fixture
def make_reader(tmp_path):
  """Builds readers of one 4x4 image with three boxes, the first a group."""
  Image.new('RGB', (4, 4)).save(tmp_path / 'a.png')
  index = object_index.Index(
    ids=np.array([77]),
    files=np.array([b'a.png']),
    sizes=np.array([[4.0, 4.0]]),
    starts=np.array([0, 3]),
    boxes=np.array([[0, 0, 1.0, 1], [0, 0, 0.4, 0.4], [0.4, 0.4, 1, 1]]),
    labels=np.array([2, 1, 1], np.int32),
    flags=np.array([1 | 4, 2, 0], np.int32),
    centroids=np.full((3, 2), 0.5),
    captions=np.array([], np.bytes_),
    names=np.array([b'', b'tree', b'man']),
    faults=np.array([], np.bytes_),
    triples=np.zeros((0, 3), np.int32),
    triple_starts=np.zeros(0, np.int64),
    predicates=np.array([], np.bytes_),
  )

  def make(task, token_flags=0, places=3):
    config = config_lib.base('ldm')
    config.data.update(image_size=4, crop='center', max_objects=places)
    config.condition.update(task=task, no_tokens=16, max_objects=places)
    return annotated_objects.AnnotatedObjectsReader(
      config.lock(), 'train', index, tmp_path, token_flags
    )

  return make


def read(reader, draw=0):
  return reader.batch(np.zeros(1, int), np.array([draw], np.uint64))


@pytest.mark.parametrize(('bits', 'man'), [(0, 1), (1, 3), (15, 11)])
def test_flag_bits_that_the_tokens_tell_apart(make_reader, bits, man):
  # Category 1 of two, plus twice the flags that count: 0, 1, 1 + 4.
  tree = {0: 0, 1: 0, 15: 4}[bits]
  batch = read(make_reader('label', bits))
  assert sorted(batch['condition_ids'][0]) == sorted([man, tree, 0])
  assert sorted(batch['box_flags'][0]) == [0, 2, 5]
  ids = read(make_reader('layout', bits))['condition_ids'][0]
  assert sorted(ids[::3]) == sorted([man, tree, 0])


def test_more_objects_than_places(make_reader):
  reader = make_reader('none', places=2)
  seen = set()
  for draw in range(30):
    batch = read(reader, draw)
    assert batch['n_boxes'][0] == 2
    seen.add(tuple(sorted(batch['box_flags'][0])))
  assert seen == {(0, 2), (0, 5), (2, 5)}


def test_text_needs_a_tokenizer(make_reader):
  with pytest.raises(ValueError, match='no text'):
    make_reader('none').text_arrays('a')


def test_maps_of_data_without_any_are_refused(make_reader):
  config = config_lib.base('ldm')
  config.data.update(image_size=4, maps=('mask',), name='image_folder')
  with pytest.raises(ValueError, match="has 'mask', which .* = image_folder"):
    annotated_objects.AnnotatedObjectsReader(
      config.lock(), 'train', make_reader('none')._index, pathlib.Path()
    )
