"""Two renderers written independently must draw the same images."""

import functools

import jax
import numpy as np
import pytest

from pyramid_jax.data.synthetic import map_scores
from pyramid_jax.data.synthetic import render
from pyramid_jax.data.synthetic import scenes
from tests.helpers import shapes_renderer


@functools.cache
def _jitted(size):
  image = functools.partial(render.image, size=size)
  maps = functools.partial(render.maps, size=size)
  return jax.jit(image), jax.jit(maps)


@pytest.mark.parametrize('size', [32, 64])
@pytest.mark.parametrize('level', range(4))
def test_jax_and_numpy_agree(level, size):
  spec = scenes.sample(1, np.arange(64), level)
  image, maps = _jitted(size)
  arrays = shapes_renderer.spec_arrays(spec)
  want = shapes_renderer.render(spec, size)
  got = np.asarray(image(arrays))
  np.testing.assert_array_equal(got, np.round(got))
  difference = np.abs(got - want['image'].astype(np.float32))
  assert difference.max() <= 1
  assert (difference > 0).mean() <= 1e-4
  drawn = jax.tree.map(np.asarray, maps(arrays))
  for name in ('instance', 'mask'):
    assert drawn[name].dtype == want[name].dtype
    assert (drawn[name] != want[name]).mean() <= 1e-4
  difference = np.abs(drawn['edge'].astype(int) - want['edge'])
  assert difference.max() <= 1
  assert (difference > 0).mean() <= 1e-4


@pytest.mark.parametrize('level', range(4))
def test_every_resolution_shows_the_same_scene(level):
  spec = scenes.sample(2, np.arange(32), level)
  large = shapes_renderer.render(spec, 128)['image'].astype(np.float64)
  small = shapes_renderer.render(spec, 64)['image'].astype(np.float64)
  pooled = large.reshape(32, 64, 2, 64, 2, 3).mean((2, 4))
  difference = np.abs(pooled - small)
  assert difference.mean() < 0.5
  assert np.quantile(difference, 0.999) < 20  # corners


def test_objects_have_the_colours_of_the_palette():
  spec = scenes.sample(0, np.arange(100), 1)
  drawn = shapes_renderer.render(spec, 64)
  for b in range(len(spec)):
    for i in range(spec.n_boxes[b]):
      x, y = (spec.geometry[b, i, :2] * 64).astype(int)
      colour = scenes.PALETTE[(spec.labels[b, i] - 1) % 6]
      np.testing.assert_allclose(
        drawn['image'][b, y, x], colour * 255, atol=0.51
      )
      assert drawn['instance'][b, y, x] == i + 1
      assert drawn['mask'][b, y, x] == spec.labels[b, i]


def test_areas_of_shapes():
  """The visible area, in parts of the bounding square, by geometry."""
  spec = scenes.sample(0, np.arange(200), 0)
  drawn = shapes_renderer.render(spec, 128)
  area = (drawn['instance'] == 1).mean((1, 2)) / spec.geometry[:, 0, 2] ** 2
  want = np.array([np.pi / 4, 1, 1 / 2, 5 / 9])[(spec.labels[:, 0] - 1) // 6]
  np.testing.assert_allclose(area, want, rtol=0.05)


def test_backgrounds_are_grey_and_every_kind_is_textured():
  spec = scenes.sample(0, np.arange(200), 0)
  drawn = shapes_renderer.render(spec, 64)
  ground = drawn['mask'] > 24
  np.testing.assert_array_equal(
    drawn['mask'][ground],
    np.broadcast_to(25 + spec.background[:, None, None], ground.shape)[ground],
  )
  empty = [
    shapes_renderer.background(k, t, 64)
    for k, t in zip(spec.background, spec.texture, strict=True)
  ]
  pixels = np.array(empty)
  assert (pixels.max(-1) - pixels.min(-1)).max() < 0.07
  # 0.42 - 0.07 - 0.03 and 0.58 + 0.07 + 0.03.
  assert pixels.min() >= 0.32
  assert pixels.max() <= 0.68
  spread = pixels.std((1, 2)).mean(-1)
  assert spread.min() > 0.02


def test_edges_lie_on_the_borders_of_the_maps():
  spec = scenes.sample(4, np.arange(40), 2)
  drawn = shapes_renderer.render(spec, 64)
  hard = map_scores.borders(drawn['instance'])
  assert hard.any((1, 2)).all()
  # Either side of a border is within a pixel of the outline.
  assert drawn['edge'][hard].mean() > 100
  flat = np.ones_like(hard)
  for dy in (-1, 0, 1):
    for dx in (-1, 0, 1):
      flat &= ~np.roll(hard, (dy, dx), (1, 2))
  assert drawn['edge'][flat].mean() < 5


def test_hard_edges_by_hand():
  instance = np.array([[0, 0, 1], [0, 2, 1]])
  want = np.array([[0, 1, 0], [1, 1, 0]], bool)
  np.testing.assert_array_equal(map_scores.borders(instance), want)
