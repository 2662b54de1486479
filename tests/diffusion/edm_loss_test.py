import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import edm_loss


def test_printed_weight_of_edm():
  assert float(
    edm_loss.EDMDistribution().weight(jnp.ones(()))
  ) == pytest.approx(5)


def test_weight_of_edm_makes_every_level_as_important():
  # weight * c_out^2 is 1: the error of the raw network counts.
  sigma = np.logspace(-2, 2, 9)
  distribution, precond = (
    edm_loss.EDMDistribution(sigma_data=0.8),
    edm.EDM(sigma_data=0.8),
  )
  np.testing.assert_allclose(
    distribution.weight(sigma) * precond.c_out(sigma) ** 2, 1
  )


@pytest.mark.parametrize(
  ('name', 'random', 'expected'),
  [
    ('edm', [0.0, 1.0, -2.0], np.exp([-1.2, 0.0, -3.6])),
    ('ve', [0.0, 0.5, 1.0], [0.02, np.sqrt(2.0), 100.0]),
    ('vp', [0.0, 1.0], [152.16697, 0.00100050]),
  ],
)
def test_laws(name, random, expected):
  distribution = edm_loss.make_distribution(name)
  sigma = distribution.sigma(jnp.asarray(random))
  np.testing.assert_allclose(sigma, expected, rtol=2e-4)
  if name != 'edm':
    np.testing.assert_allclose(distribution.weight(sigma), 1 / np.square(sigma))


def test_draws():
  key = jax.random.key(0)
  normal = edm_loss.EDMDistribution().draw(key, 4000)
  assert float(normal.mean()) == pytest.approx(0, abs=0.06)
  assert float(normal.std()) == pytest.approx(1, abs=0.05)
  for distribution in (edm_loss.VPDistribution(), edm_loss.VEDistribution()):
    uniform = distribution.draw(key, 4000)
    assert 0 <= float(uniform.min()) <= 0.01
    assert 0.99 <= float(uniform.max()) < 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.03)


def test_loss_is_a_sum_over_the_batch_size():
  y, eps = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
  random = jnp.array([0.3, -1.0, 2.0])
  distribution = edm_loss.EDMDistribution()
  sigma = distribution.sigma(random)
  denoiser = lambda x, sigma: 0.5 * x + sigma[:, None, None, None]
  total, metrics = edm_loss.loss(denoiser, distribution, y, random, eps)
  want = 0.0
  for i in range(3):
    s = float(sigma[i])
    error = 0.5 * (y[i] + s * eps[i]) + s - y[i]
    want += (s**2 + 0.25) / (0.5 * s) ** 2 * np.square(error).sum()
  assert float(total) == pytest.approx(want / 3, rel=1e-5)
  assert float(metrics['loss_mean']) == pytest.approx(want / 96, rel=1e-5)


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('iddpm', {}, "'iddpm' is not one of .*'edm'"),
    ('edm', {'std': 0}, 'P_std is 0, must be above 0'),
    ('edm', {'sigma_data': -1}, 'sigma_data is -1, must be above 0'),
    ('ve', {'sigma_min': 200}, 'sigma_min is 200, must be above 0 and below'),
    ('vp', {'epsilon_t': 0}, 'epsilon_t is 0, must be between'),
  ],
)
def test_bad_input_is_told(name, options, message):
  with pytest.raises(ValueError, match=message) as error:
    edm_loss.make_distribution(name, **options)
  assert '\n' not in str(error.value)
