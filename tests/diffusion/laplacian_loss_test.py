import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import laplacian_loss
from tests.helpers import gaussian_bands


PROCESS = laplacian.Process(
  3, (1.2, 5.0), 'quad', (0.06, 0.10, 0.45), 0.002, 80.0
)


def gaussian_images(process, count, side):
  """Images with Gaussian bands of the process's power."""
  white = jax.random.normal(jax.random.key(0), (count, side, side, 1))
  stds = np.sqrt(gaussian_bands.data_powers(process))
  return laplacian.mix(jnp.asarray(stds, jnp.float32), white)


def nothing(x, c_noise):
  del c_noise
  return jnp.zeros_like(x)


@pytest.mark.parametrize(
  ('kind', 'stage', 'sigma', 'printed', 'formula'),
  [
    ('band', 1, 0.5, 0.02629, 0.02633),
    ('band', 2, 2.0, 0.1221, 0.1218),
    ('scalar', 1, 0.5, 0.1161, 0.1163),
    ('scalar', 2, 2.0, 0.1761, 0.1757),
  ],
)
def test_errors_without_a_network(kind, stage, sigma, printed, formula):
  precond = laplacian_loss.Preconditioning(PROCESS, stage, kind)
  images = gaussian_images(PROCESS, 6000, 8)
  clean = PROCESS.clean(images, stage)
  x = PROCESS.forward(jax.random.key(1), images, jnp.float32(sigma), stage)
  error = precond.denoise(nothing, x, jnp.float32(sigma)) - clean
  np.testing.assert_allclose(jnp.square(error).mean(), printed, rtol=0.02)
  c_in, _, c_out = precond.factors(jnp.float32(sigma))
  shares = laplacian_loss.band_shares(PROCESS, stage)
  shares = shares if kind == 'band' else np.ones(1)
  np.testing.assert_allclose((shares * c_out**2).sum(), formula, rtol=5e-4)
  np.testing.assert_allclose(laplacian.mix(c_in, x).std(), 1.0, atol=0.01)


@pytest.mark.parametrize('kind', laplacian_loss.KINDS)
@pytest.mark.parametrize(('stage', 'sigma'), [(1, 0.5), (2, 2.0)])
def test_a_prior_leaves_its_error_to_the_network(kind, stage, sigma):
  more = np.array([0.08, 0.05, 0.2])
  both = np.hypot(PROCESS.band_rms, more)
  wider = dataclasses.replace(PROCESS, band_rms=tuple(both))
  mean = 3.0 * jax.random.normal(jax.random.key(2), (6000, 8, 8, 1))
  rest = gaussian_images(wider, 6000, 8)
  prior = laplacian_loss.Prior(mean, jnp.tile(more**2, (6000, 1)))
  precond = laplacian_loss.Preconditioning(PROCESS, stage, kind)
  key, level = jax.random.key(1), jnp.float32(sigma)
  clean = PROCESS.clean(mean + rest, stage)
  x = PROCESS.forward(key, mean + rest, level, stage)
  got = precond.denoise(nothing, x, level, prior)
  # What the pyramid of the rest alone would give, the mean put back.
  other = laplacian_loss.Preconditioning(wider, stage, kind)
  alone = other.denoise(nothing, wider.forward(key, rest, level, stage), level)
  np.testing.assert_allclose(got, alone + PROCESS.clean(mean, stage), atol=2e-5)
  _, _, c_out = precond.factors(level, prior)
  shares = laplacian_loss.band_shares(PROCESS, stage)
  shares = shares if kind == 'band' else np.ones(1)
  error = jnp.square(got - clean).mean()
  np.testing.assert_allclose((shares * c_out[0] ** 2).sum(), error, rtol=0.02)


def test_the_loss_knows_the_prior():
  precond = laplacian_loss.Preconditioning(PROCESS, 1)
  mean = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
  eps, sigma = jnp.zeros_like(mean), jnp.array([0.01, 3.0])
  prior = laplacian_loss.Prior(mean, jnp.zeros((2, 3)))
  got, _ = laplacian_loss.loss(nothing, precond, mean, sigma, eps, prior)
  np.testing.assert_allclose(got, 0, atol=1e-8)
  got, _ = laplacian_loss.loss(nothing, precond, mean, sigma, eps)
  assert got > 1


def test_one_level_is_edm():
  process = laplacian.Process(1, (), 'quad', (0.5,), 0.002, 80.0)
  sigma = jnp.array([0.002, 0.3, 70.0])
  other = edm.EDM(sigma_data=0.5)
  for kind in laplacian_loss.KINDS:
    precond = laplacian_loss.Preconditioning(process, 1, kind)
    c_in, c_skip, c_out = precond.factors(sigma)
    np.testing.assert_allclose(c_in[:, 0], other.c_in(sigma), rtol=1e-5)
    np.testing.assert_allclose(c_skip[:, 0], other.c_skip(sigma), rtol=1e-5)
    np.testing.assert_allclose(c_out[:, 0], other.c_out(sigma), rtol=1e-5)
    np.testing.assert_allclose(
      precond.c_noise(sigma), other.c_noise(sigma), rtol=1e-6
    )


@pytest.mark.parametrize('stage', [1, 2])
def test_the_scalar_factors_are_the_printed_formulas(stage):
  precond = laplacian_loss.Preconditioning(PROCESS, stage, 'scalar')
  sigma = np.array([0.002, 0.1, 1.1, 1.2]) * 2 ** (stage - 1)
  a = PROCESS.alphas(sigma)[:, stage - 1 :]
  v = np.square(PROCESS.band_rms[stage - 1 :])
  a1 = (a * v).sum(-1)
  a2 = (a**2 * v).sum(-1) + (sigma / 2 ** (stage - 1)) ** 2
  c_in, c_skip, c_out = precond.factors(jnp.asarray(sigma))
  np.testing.assert_allclose(c_in[:, 0], a2**-0.5, rtol=1e-5)
  np.testing.assert_allclose(c_skip[:, 0], a1 / a2, rtol=1e-5)
  want = np.sqrt(v.sum() - a1**2 / a2)
  np.testing.assert_allclose(c_out[:, 0], want, rtol=2e-5)


def test_a_stage_ends_where_its_finest_band_is_noise():
  precond = laplacian_loss.Preconditioning(PROCESS, 2, 'band')
  c_in, c_skip, c_out = precond.factors(jnp.float32(5.0))
  np.testing.assert_array_equal(c_skip[0], 0)
  v = 0.1**2 / 0.75
  np.testing.assert_allclose(c_out[0], np.sqrt(v), rtol=1e-6)
  np.testing.assert_allclose(c_in[0], 1 / 2.5, rtol=1e-6)


def test_stages_are_as_likely_as_the_normal_law_makes_them():
  process = laplacian.Process(
    3, (1.0, 2.4), 'quad', (0.086, 0.098, 0.53), 0.002, 320.0
  )
  distribution = laplacian_loss.NoiseDistribution()
  np.testing.assert_allclose(
    distribution.shares(process), [0.438, 0.279, 0.283], atol=1e-3
  )
  for stage in (1, 2, 3):
    low, high = process.bounds(stage)
    sigma = distribution.draw(jax.random.key(stage), process, stage, 4000)
    assert low <= sigma.min() <= sigma.max() <= high
    z = (np.log(sigma) - (-1.2 + 2 * np.log(2.0))) / 1.2
    below = distribution.range(process, stage)
    part = 0.5 * (below[0] + below[1])
    middle = jax.scipy.special.ndtri(part)
    np.testing.assert_allclose((z < middle).mean(), 0.5, atol=0.03)


@pytest.mark.parametrize('kind', laplacian_loss.KINDS)
def test_the_loss_is_the_weighted_error(kind):
  precond = laplacian_loss.Preconditioning(PROCESS, 2, kind)
  clean = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
  eps = jax.random.normal(jax.random.key(1), clean.shape)
  sigma = jnp.array([1.5, 4.0])
  network = lambda x, c_noise: jnp.tanh(x) * c_noise[:, None, None, None]
  got, metrics = laplacian_loss.loss(network, precond, clean, sigma, eps)
  x = PROCESS.noised(clean, eps, sigma, 2)
  error = precond.denoise(network, x, sigma) - clean
  if kind == 'band':
    _, _, c_out = precond.factors(sigma)
    want = sum(
      jnp.square(laplacian.mix(row, error)) / c[:, None, None, None] ** 2
      for row, c in zip(jnp.eye(2), c_out.T, strict=True)
    ).mean()
  else:
    c_out = precond.factors(sigma)[2][:, :, None, None]
    want = (jnp.square(error) / c_out**2).mean()
  np.testing.assert_allclose(got, want, rtol=1e-5)
  powers = [metrics[f'mse_band_{i}'] for i in (2, 3)]
  np.testing.assert_allclose(sum(powers), jnp.square(error).mean(), rtol=1e-5)


def test_what_cannot_be_is_refused():
  with pytest.raises(
    ValueError, match="'both' is not one of .'scalar', 'band'"
  ):
    laplacian_loss.Preconditioning(PROCESS, 1, 'both')
  with pytest.raises(ValueError, match='stage 4 is not one of 1..3'):
    laplacian_loss.Preconditioning(PROCESS, 4)
  with pytest.raises(ValueError, match='P_std is 0, must be above 0'):
    laplacian_loss.NoiseDistribution(std=0)
