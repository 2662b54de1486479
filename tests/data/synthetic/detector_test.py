"""The detector is more exact than what it measures, also on damaged images."""

import functools

import numpy as np
import pytest
from scipy import ndimage

from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import object_scores
from pyramid_jax.data.synthetic import scenes
from tests.helpers import shapes_renderer


COUNT = 100


@functools.cache
def _real(level, size):
  spec = scenes.sample(11, np.arange(COUNT), level)
  return spec, shapes_renderer.render(spec, size)['image']


def _examples(spec):
  return {
    'boxes': spec.boxes,
    'labels': spec.labels,
    'n_boxes': spec.n_boxes,
  }


def _rates(spec, images, turned=False):
  """Returns recall, precision, shapes right among hits, mean IoU of hits."""
  found = detector.detect(images, turned)
  matches = object_scores.match_all(_examples(spec), found)
  hits = sum(m.hits for m in matches)
  return (
    hits / sum(len(m.asked) for m in matches),
    hits / max(sum(len(m.found) for m in matches), 1),
    sum(m.right for m in matches) / max(hits, 1),
    sum(m.iou.sum() for m in matches) / max(hits, 1),
  )


def _damage(images, kind):
  x = images.astype(np.float64)
  if kind == 'blur 1':
    x = ndimage.gaussian_filter(x, (0, 1, 1, 0))
  elif kind.startswith('noise'):
    random = np.random.RandomState(0)
    x = x + float(kind.split()[1]) * random.standard_normal(x.shape)
  elif kind == 'contrast':
    x = 127.5 + 0.7 * (x - 127.5)
  return np.clip(np.round(x), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
  ('level', 'size', 'kind', 'recall', 'shape', 'iou'),
  [
    (1, 64, 'clean', 0.99, 0.99, 0.90),
    (2, 64, 'clean', 0.99, 0.99, 0.90),
    (3, 64, 'clean', 0.99, 0.98, 0.84),
    (1, 32, 'clean', 0.98, 0.92, 0.82),
    (2, 32, 'clean', 0.97, 0.90, 0.80),
    (2, 128, 'clean', 1.0, 1.0, 0.94),
    (1, 64, 'blur 1', 0.99, 0.95, 0.87),
    (2, 64, 'blur 1', 0.97, 0.95, 0.86),
    (1, 64, 'noise 10', 0.99, 0.98, 0.90),
    (2, 64, 'noise 25', 0.99, 0.95, 0.86),
    (3, 64, 'noise 25', 0.98, 0.95, 0.81),
    (2, 64, 'contrast', 0.99, 0.98, 0.88),
  ],
)
def test_rates(level, size, kind, recall, shape, iou):
  spec, images = _real(level, size)
  got = _rates(spec, _damage(images, kind), level == 3)
  assert got[0] >= recall
  assert got[1] >= recall - 0.01
  assert got[2] >= shape
  assert got[3] >= iou


@pytest.mark.parametrize('level', [1, 2, 3])
def test_shuffled_conditions_are_chance(level):
  spec, images = _real(level, 64)
  assert _rates(spec, np.roll(images, 1, 0), level == 3)[0] < 0.06


def test_a_nested_object_does_not_make_a_third():
  """The smooth seam of red on blue is magenta, and is no object."""
  spec, images = _real(2, 64)
  rows = (spec.parents >= 0).any(1)
  assert rows.sum() > 20
  found = detector.detect(images[rows])
  assert [len(d) for d in found] == spec.n_boxes[rows].tolist()


def test_one_square_by_hand():
  image = np.full((1, 16, 32, 3), 128, np.uint8)
  image[0, 4:10, 20:28] = scenes.PALETTE[1] * 255
  (found,) = detector.detect(image)
  np.testing.assert_allclose(found.boxes, [[20 / 32, 4 / 16, 28 / 32, 10 / 16]])
  assert found.labels.tolist() == [scenes.LABEL_NAMES.index('green square')]
  assert found.areas.tolist() == [48]
  assert found.colours.tolist() == [1]


def test_holes_do_not_change_a_shape():
  """A square with a square on it is no cross, and keeps its box."""
  image = np.full((1, 32, 32, 3), 128, np.uint8)
  image[0, 4:24, 4:24] = scenes.PALETTE[0] * 255
  image[0, 5:23, 6:22] = scenes.PALETTE[2] * 255
  (found,) = detector.detect(image)
  names = sorted(scenes.LABEL_NAMES[y] for y in found.labels)
  assert names == ['blue square', 'red square']


def test_an_outline_is_filled():
  side = (np.arange(10) + 0.5) / 5 - 1
  d = shapes_renderer.distance(3, *np.meshgrid(side, side)) * 5
  image = np.full((1, 32, 32, 3), 128, np.uint8)
  image[0, 4:14, 4:14][(d < 0) & (d > -1)] = scenes.PALETTE[0] * 255
  (found,) = detector.detect(image)
  assert [scenes.LABEL_NAMES[y] for y in found.labels] == ['red cross']


def test_small_specks_do_not_count():
  image = np.full((2, 64, 64, 3), 128, np.uint8)
  image[0, 4:6, 4:6] = scenes.PALETTE[0] * 255  # 4 px
  image[1, 4:6, 4:7] = scenes.PALETTE[0] * 255  # 6 px
  assert [len(d) for d in detector.detect(image)] == [0, 1]
  large = image.repeat(2, 1).repeat(2, 2)  # the limit grows with the area
  assert [len(d) for d in detector.detect(large)] == [0, 1]


def test_the_largest_comes_first_and_images_do_not_mix():
  image = np.full((3, 32, 32, 3), 128, np.uint8)
  image[0, 2:6, 2:6] = scenes.PALETTE[2] * 255
  image[0, 10:20, 10:20] = scenes.PALETTE[3] * 255
  image[2, 2:6, 2:6] = scenes.PALETTE[2] * 255
  found = detector.detect(image)
  assert [d.areas.tolist() for d in found] == [[100, 16], [], [16]]


def test_bad_images():
  with pytest.raises(ValueError, match=r'uint8, got \(2, 8, 8, 3\) float32'):
    detector.detect(np.zeros((2, 8, 8, 3), np.float32))
  with pytest.raises(ValueError, match=r'\(8, 8, 3\) uint8'):
    detector.detect(np.zeros((8, 8, 3), np.uint8))
