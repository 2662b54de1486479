import pathlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.diffusion import tiling as windows
from pyramid_jax.distributed import initial
from pyramid_jax.networks import first_stages
from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import resampling
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import tiling


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


class Local(nn.Module):
  """A first stage without norms: what it computes is local."""

  factor = coarsest_factor = 2

  def setup(self):
    self.down = convolution.Conv(2, strides=2, padding=((0, 1), (0, 1)))
    self.up = convolution.Conv(3)

  def __call__(self, image):
    return self.decode(self.encode(image))

  def encode(self, image, noise=None):
    z = self.down(image)
    return [z if noise is None else z + noise]

  def decode(self, zs):
    return self.up(resampling.enlarge(zs[0]))


def draw(*shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope='module')
def local():
  module = Local()
  params = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  return module, params


def inner(tiles, radius):
  """Places that no window has within `radius` of a border of its own."""
  kept = np.ones(tiles.shape, bool)
  for axis, starts in enumerate((tiles.rows, tiles.columns)):
    line = np.ones(tiles.shape[axis], bool)
    for start in starts:
      end = start + tiles.size[axis]
      if start:
        line[start : start + radius] = False
      if end < tiles.shape[axis]:
        line[end - radius : end] = False
    kept &= line[:, None] if axis == 0 else line[None]
  return kept


def test_away_from_borders_it_is_the_whole_image(local):
  module, params = local
  image, noise = draw(2, 24, 40, 3), draw(2, 12, 20, 2, seed=1)
  tiles = tiling.plan(module, (24, 40), 16, 8)
  assert (tiles.rows, tiles.columns) == ((0, 8), (0, 8, 16, 24))
  apply = lambda *x, method: module.apply({'params': params}, *x, method=method)

  (want,) = apply(image, noise, method='encode')
  (got,) = tiling.encode(module, params, image, tiles, noise)
  places = inner(tiles.at(12, 20), 1)
  assert got.shape == want.shape
  assert 0.3 < places.mean() < 1
  np.testing.assert_allclose(got[:, places], want[:, places], atol=1e-6)
  assert np.abs(got - want).max() > 1e-4  # at borders it is not

  want_image = apply([want], method='decode')
  got_image = tiling.decode(module, params, [want], tiles)
  places = inner(tiles, 2)
  np.testing.assert_allclose(
    got_image[:, places], want_image[:, places], atol=1e-6
  )


def test_one_window_is_the_plain_network(local):
  module, params = local
  image = draw(1, 8, 8, 3)
  tiles = tiling.plan(module, (8, 8), 8, 0)
  want = module.apply({'params': params}, image, method='encode')
  got = tiling.encode(module, params, image, tiles)
  np.testing.assert_allclose(got[0], want[0], atol=1e-6)
  np.testing.assert_allclose(
    tiling.decode(module, params, want, tiles),
    module.apply({'params': params}, want, method='decode'),
    atol=1e-6,
  )


@pytest.mark.parametrize('variant', ['kl', 'vq'])
def test_first_stages_have_their_shapes(variant):
  path = f'{CONFIGS}/ldm_autoencoder_shapes.py:{variant},debug'
  model = autoencoder.network(config_lib.load(path))
  image = jnp.zeros((2, 24, 32, 3))
  tiles = tiling.plan(model, (24, 32), 16, 8)

  def both(key):
    params = model.init(key, image)['params']
    zs = tiling.encode(model, params, image, tiles)
    return zs, tiling.decode(model, params, zs, tiles)

  zs, out = jax.eval_shape(both, jax.random.key(0))
  assert [z.shape for z in zs] == [(2, 6, 8, 4)]
  assert out.shape == image.shape


def test_several_scales_are_cut_alike():
  model = autoencoder.network(
    config_lib.load(f'{CONFIGS}/msvqgan_shapes.py:debug')
  )
  tiles = tiling.plan(model, (16, 24), 16, 8)
  image = draw(1, 16, 24, 3)
  params = initial.evaluate(
    lambda key: model.init(key, image)['params'], jax.random.key(0)
  )
  zs = jax.jit(lambda p: tiling.encode(model, p, image, tiles))(params)
  assert [z.shape for z in zs] == [(1, 2, 3, 8), (1, 4, 6, 8)]
  # the first window alone reaches the first cell
  first = jax.jit(
    lambda p: model.apply({'params': p}, image[:, :, :16], method='encode')
  )(params)
  for z, want in zip(zs, first, strict=True):
    np.testing.assert_allclose(z[0, 0, 0], want[0, 0, 0], atol=1e-5)


@pytest.mark.parametrize(
  ('numbers', 'message'),
  [
    (((22, 16), 8, 4), 'height is 22, must be a multiple of 4'),
    (((16, 16), 10, 4), 'size is 10, must be a multiple of 4'),
    (((16, 16), 8, 8), r'overlap is 8, must be in \[0, 8\)'),
  ],
)
def test_windows_that_cut_cells_are_refused(numbers, message):
  model = first_stages.AutoencoderKL(
    ddconfig={'ch_mult': (1, 1, 1)}, embed_dim=4
  )
  with pytest.raises(ValueError, match=message):
    tiling.plan(model, *numbers)


def test_an_image_of_another_size_is_refused(local):
  tiles = windows.tiling((8, 8), 8, 8)
  with pytest.raises(ValueError, match='its windows are for'):
    tiling.encode(*local, jnp.zeros((1, 8, 16, 3)), tiles)
