"""Panoramas: where views are, what they keep, and that seams are no seams."""

import types

import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.pipeline import panorama
from pyramid_jax.pipeline import sphere


SIDE = 48


def scene(directions):
  """Colours of directions, smooth over the whole sphere, in [0, 255]."""
  unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
  x, y, z = np.moveaxis(unit, -1, 0)
  return 127.5 + 80 * np.stack([x * z, y, x + z * z - 0.5], -1)


class Painter:
  """A model that sees the scene in each view in turn."""

  upsampler = None
  requests = ('prompt', 'image', 'mask')
  config = types.SimpleNamespace(
    data=types.SimpleNamespace(image_size=SIDE),
    sample=types.SimpleNamespace(seed=5),
  )

  def __init__(self, fov, overlap):
    self.views = sphere.covering(fov, overlap, SIDE)
    self.seeds, self.errors = [], []

  def __call__(self, *, prompt, image, mask, seed, count):
    assert (prompt, count) == ('hills', 1)
    want = scene(self.views[seed - 5].directions)
    self.seeds.append(seed)
    self.errors.append(np.abs(image - want)[~mask].max(initial=0))
    made = np.round(want).astype(np.uint8)
    return np.where(mask[..., None], made, image)[None]


def test_views_make_the_sphere_they_look_at():
  painter = Painter(90, 0.35)
  image = panorama.make(painter, 'hills', height=64)
  assert (image.shape, image.dtype) == ((64, 128, 3), np.uint8)
  want = scene(sphere.directions(64))
  # Two interpolations, and what is known of a view is rounded again.
  assert np.abs(image - want).max() < 3
  assert max(painter.errors) < 3
  # The step over the border of the image is as small as any other.
  steps = np.abs(np.diff(np.float64(image), axis=1)).max((1, 2))
  seam = np.abs(np.float64(image[:, 0]) - image[:, -1]).max(1)
  assert (seam <= np.maximum(steps, 4)).all()
  assert painter.seeds[0] == 5
  assert len(set(painter.seeds)) == len(painter.seeds)


@pytest.mark.parametrize(('fov', 'overlap'), [(60, 0.1), (90, 0.1), (120, 0.4)])
def test_views_cover_the_sphere(fov, overlap):
  found = np.zeros((40, 80), bool)
  directions = sphere.directions(40)
  for view in sphere.covering(fov, overlap, 32):
    found |= view.places(directions)[1]
  assert found.all()


def test_a_turn_of_the_sphere_is_a_turn_of_the_view():
  image = np.random.default_rng(0).uniform(0, 255, (16, 32, 3))
  for yaw, pitch in ((0, 0), (170, 20), (33, -80), (0, 90)):
    view = sphere.View(yaw=yaw, pitch=pitch, fov=80, side=9)
    want = sphere.seen(image, view)
    for columns in (1, 13, 31):
      turned = sphere.View(
        yaw=yaw + columns * 360 / 32, pitch=pitch, fov=80, side=9
      )
      got = sphere.seen(np.roll(image, columns, axis=1), turned)
      np.testing.assert_allclose(got, want, atol=1e-9)


def test_directions_and_pixels_are_inverse():
  row, column = sphere.places(sphere.directions(12), 12)
  want = np.meshgrid(np.arange(12), np.arange(24), indexing='ij')
  np.testing.assert_allclose(row, want[0], atol=1e-9)
  np.testing.assert_allclose(column, want[1], atol=1e-9)
  view = sphere.View(yaw=100, pitch=-35, fov=70, side=7)
  (row, column), inside = view.places(view.directions * 3)
  want = np.meshgrid(np.arange(7), np.arange(7), indexing='ij')
  np.testing.assert_allclose(row, want[0], atol=1e-9)
  np.testing.assert_allclose(column, want[1], atol=1e-9)
  behind = view.places(-view.directions)[1]
  assert not behind.any()
  # To the right and up, as a person says.
  x, y, z = sphere.View(yaw=90, pitch=0, fov=70, side=7).directions[3, 3]
  np.testing.assert_allclose((x, y, z), (1, 0, 0), atol=1e-12)
  x, y, z = sphere.View(yaw=0, pitch=90, fov=70, side=7).directions[3, 3]
  np.testing.assert_allclose((x, y, z), (0, -1, 0), atol=1e-12)


def test_beyond_a_pole_is_half_a_turn_away():
  rows, columns = np.array([-1, 0, 4, 3]), np.array([1, 8, 1, -1])
  row, column = sphere.on_sphere(rows, columns, 4)
  assert row.tolist() == [0, 0, 3, 3]
  assert column.tolist() == [5, 0, 5, 7]


def test_earlier_views_stay_as_they_are():
  canvas = panorama.Canvas(24)
  first = sphere.View(yaw=0, pitch=0, fov=90, side=16)
  next_to_it = sphere.View(yaw=45, pitch=0, fov=90, side=16)
  canvas.paint(first, np.full((16, 16, 3), 10, np.uint8))
  known, values = canvas.known.copy(), canvas.values.copy()
  image, hole = canvas.seen(next_to_it)
  assert 0 < hole.mean() < 1
  assert (image[~hole] == 10).all()
  canvas.paint(next_to_it, np.full((16, 16, 3), 200, np.uint8))
  np.testing.assert_array_equal(canvas.values[known], values[known])
  np.testing.assert_allclose(canvas.values[canvas.known & ~known], 200)
  with pytest.raises(errors.UserError, match='a larger overlap'):
    canvas.image()


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'fov': 170}, r'fov=170: must lie in \[30, 120\]'),
    ({'overlap': 0}, 'overlap=0: must lie in'),
    ({'height': 10**6}, 'height=1000000'),
  ],
)
def test_what_makes_no_panorama_is_refused(values, message):
  with pytest.raises(errors.UserError, match=message):
    panorama.make(Painter(90, 0.35), 'hills', **values)


def test_a_model_without_masks_is_refused():
  painter = Painter(90, 0.35)
  painter.requests = ('prompt', 'image')
  with pytest.raises(errors.UserError, match='takes prompt, image'):
    panorama.make(painter, 'hills')
