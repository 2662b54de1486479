import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import tiling
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.levels import Prediction


def ramp(shape):
  return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


def test_published_normaliser():
  tiles = tiling.tiling((6, 6), 4, 2)
  border = [0.01, 0.01, 0.02, 0.02, 0.01, 0.01]
  second = [0.01, 1 / 3, 0.343333, 0.343333, 1 / 3, 0.01]
  third = [0.02, 0.343333, 0.363333, 0.363333, 0.343333, 0.02]
  expected = [border, second, third, third, second, border]
  np.testing.assert_allclose(tiles.total, expected, atol=1e-6)


@pytest.mark.parametrize(
  ('shape', 'size', 'stride', 'rows', 'columns'),
  [
    ((6, 6), 4, 2, (0, 2), (0, 2)),
    ((7, 10), 4, 3, (0, 3), (0, 3, 6)),
    ((8, 11), 4, 3, (0, 3, 4), (0, 3, 6, 7)),  # the last one moves inside
    ((9, 6), (3, 4), (2, 1), (0, 2, 4, 6), (0, 1, 2)),
    ((3, 9), 4, 3, (0,), (0, 3, 5)),  # higher than the map
    ((5, 5), 8, 16, (0,), (0,)),
  ],
)
def test_windows_cover_the_map(shape, size, stride, rows, columns):
  tiles = tiling.tiling(shape, size, stride)
  assert (tiles.rows, tiles.columns) == (rows, columns)
  assert tiles.total.min() > 0
  x = ramp((2, *shape, 3))
  cut = tiling.windows(x, tiles)
  assert cut.shape == (2 * tiles.count, *tiles.size, 3)
  np.testing.assert_allclose(tiling.merge(cut, tiles), x, rtol=1e-6)


def test_windows_lie_where_the_tiling_says():
  tiles = tiling.tiling((8, 11), (4, 5), 3)
  x = ramp((2, 8, 11, 1))
  cut = tiling.windows(x, tiles)
  index = tiles.count + len(tiles.columns) + 2  # image 1, row 1, column 2
  np.testing.assert_array_equal(cut[index], x[1, 3:7, 6:11])


def test_overlap_is_averaged_with_more_weight_inside():
  tiles = tiling.tiling((1, 6), (1, 4), 2)
  left, right = jnp.zeros((1, 1, 4, 1)), jnp.ones((1, 1, 4, 1))
  got = tiling.merge(jnp.concatenate([left, right]), tiles)[0, 0, :, 0]
  # Weights along a window: .01 1/3 1/3 .01.
  share = 0.01 / (0.01 + 1 / 3)
  np.testing.assert_allclose(got, [0, 0, share, 1 - share, 1, 1], atol=1e-6)


def test_numbers_that_cannot_work_are_told():
  with pytest.raises(ValueError, match='windows of 4 every 5 leave gaps'):
    tiling.tiling((8, 8), 4, 5)
  with pytest.raises(ValueError, match='windows of 4 every 0'):
    tiling.tiling((8, 8), 4, 0)
  tiles = tiling.tiling((8, 8), 4, 2)
  with pytest.raises(ValueError, match=r'map is \(8, 9\)'):
    tiling.windows(jnp.zeros((1, 8, 9, 1)), tiles)
  with pytest.raises(ValueError, match='8 windows'):
    tiling.merge(jnp.zeros((8, 4, 4, 1)), tiles)


def test_program_size_follows_the_sides_not_their_product():
  def lines(side):
    tiles = tiling.tiling((side, side), 4, 2)
    both = lambda x: tiling.merge(tiling.windows(x, tiles), tiles)
    x = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    return len(str(jax.make_jaxpr(both)(x)).splitlines())

  assert lines(40) < 3 * lines(20)


CHAIN = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0195)
LEVELS = timesteps.spaced_levels(CHAIN, 5, 'official')


def stage(shape, map_, token, blur=False):
  """A stage with a condition on the map and one of the image.

  With `blur` the network looks at its neighbours, and at no others.
  """

  def denoise(x, level, context, first=True):
    del first
    seen = x
    if blur:
      seen = (jnp.roll(x, 1, 1) + jnp.roll(x, -1, 1)) / 2
    on_map, of_image = context
    eps = jnp.tanh(seen) * level.time / 1000 + 0.1 * on_map + of_image
    return Prediction.from_eps(x, eps, level)

  return sampling.Stage(
    segments=(sampling.Segment(levels=LEVELS, denoise=denoise),),
    enter=lambda state, normal: (normal(shape), (map_, token)),
    leave=lambda state, x, x0, context: [*state, x],
  )


def test_a_network_that_sees_single_places_does_not_notice_the_windows():
  solver = solvers.create('ddim')
  tiles = tiling.tiling((7, 10), 4, 3)
  noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(0)))
  map_ = jax.random.normal(jax.random.key(1), (2, 7, 10, 3))
  token = jnp.array([0.5, -0.5])[:, None, None, None]
  (want,) = sampling.run([stage(map_.shape, map_, token)], solver, noise)
  parts = stage(
    (2 * tiles.count, *tiles.size, 3),
    tiling.windows(map_, tiles),
    jnp.repeat(token, tiles.count, axis=0),
  )
  (got,) = sampling.run([tiling.split(parts, tiles)], solver, noise)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_windows_inside_and_outside_of_guidance_agree():
  solver = solvers.create('ddim')
  tiles = tiling.tiling((7, 10), 4, 3)
  noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(0)))
  map_ = jax.random.normal(jax.random.key(1), (2, 7, 10, 3))
  token = jnp.array([0.5, -0.5])[:, None, None, None]
  cond, null = (map_, token), (0 * map_, 0 * token)

  def of_windows(condition):
    return (
      tiling.windows(condition[0], tiles),
      jnp.repeat(condition[1], tiles.count, axis=0),
    )

  def build(condition, shape):
    return stage(shape, *condition, blur=True)

  guidance = classifier_free.Guidance(2.0)
  inside = classifier_free.guided_stage(
    lambda condition, shape: tiling.split(
      build(
        of_windows(condition), (shape[0] * tiles.count, *tiles.size, shape[-1])
      ),
      tiles,
    ),
    map_.shape,
    cond,
    null,
    guidance,
  )
  size = (2 * tiles.count, *tiles.size, 3)
  parts = classifier_free.guided_stage(
    build, size, of_windows(cond), of_windows(null), guidance
  )
  outside = tiling.split(parts, tiles)
  first, second = (
    sampling.run([s], solver, noise)[0] for s in (inside, outside)
  )
  assert first.shape == map_.shape
  np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
