import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.levels import Prediction
from pyramid_jax.diffusion.levels import row


CHAIN = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0195)
SHAPE = (3, 4, 4, 2)


def normal(seed, shape=SHAPE):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize('name', gaussian.PARAMETERIZATIONS)
def test_a_perfect_prediction_gives_back_the_clean_state_and_the_noise(name):
  x0, eps = normal(0), normal(1)
  levels = timesteps.levels(CHAIN, np.array([1, 400, 999]), 1.0)
  for index in range(3):
    level = row(levels, index)
    x = gaussian.q_sample(x0, eps, level.alpha, level.sigma)
    value = gaussian.target(name, x0, eps, level.alpha, level.sigma)
    got = Prediction.of(name, x, value, level)
    # Float rounding grows by what is divided by: alpha, or sigma.
    np.testing.assert_allclose(got.x0, x0, atol=1e-4)
    np.testing.assert_allclose(got.eps, eps, atol=1e-4)


def test_a_clean_level_has_no_noise():
  end = row(timesteps.levels(CHAIN, np.array([0]), 1.0), -1)
  assert end.sigma == 0
  got = Prediction.from_x0(normal(0), normal(1), end)
  np.testing.assert_array_equal(got.eps, np.zeros(SHAPE))


def test_targets_take_one_level_per_example():
  x0, eps, t = normal(0), normal(1), jnp.array([0, 500, 999])
  alpha, sigma = CHAIN.alpha(t), CHAIN.sigma(t)
  got = gaussian.target('v', x0, eps, alpha, sigma)
  for i in range(3):
    np.testing.assert_allclose(
      got[i], alpha[i] * eps[i] - sigma[i] * x0[i], rtol=1e-6
    )


def test_bound_of_v_weighs_the_same_error_as_that_of_eps():
  # An error d of v is an error alpha d of the noise it implies.
  level = row(timesteps.levels(CHAIN, np.array([600]), 1.0), 0)
  x, v, d = normal(0), normal(1), normal(2)
  before = Prediction.from_v(x, v, level).eps
  after = Prediction.from_v(x, v + d, level).eps
  of_eps = CHAIN.loss_weights('eps')[600] * gaussian.error(after, before, 'l2')
  of_v = CHAIN.loss_weights('v')[600] * gaussian.error(v + d, v, 'l2')
  np.testing.assert_allclose(of_v, of_eps, rtol=1e-4)


def by_hand(name, kind, logvar, simple_weight, elbo_weight):
  """The loss of a network that predicts half of its input, in numpy."""
  x0, eps = (np.asarray(normal(i), np.float64) for i in (0, 1))
  t = np.array([0, 10, 900])
  alpha = np.sqrt(CHAIN.alphas_bar[t])[:, None, None, None]
  sigma = np.sqrt(1 - CHAIN.alphas_bar[t])[:, None, None, None]
  target = {'eps': eps, 'x0': x0, 'v': alpha * eps - sigma * x0}[name]
  d = 0.5 * (alpha * x0 + sigma * eps) - target
  errors = (np.abs(d) if kind == 'l1' else d**2).mean((1, 2, 3))
  vlb = (CHAIN.loss_weights(name)[t] * errors).mean()
  gamma = (errors / np.exp(logvar[t]) + logvar[t]).mean()
  return errors.mean(), vlb, gamma, simple_weight * gamma + elbo_weight * vlb


@pytest.mark.parametrize(
  ('name', 'kind'),
  [('eps', 'l2'), ('eps', 'l1'), ('x0', 'l2'), ('v', 'l1')],
)
def test_loss_equals_the_formula(name, kind):
  logvar = np.linspace(-1, 1, 1000)
  settings = gaussian.LossSettings(
    loss_type=kind, parameterization=name, simple_weight=0.7, elbo_weight=0.3
  )
  t = jnp.array([0, 10, 900])
  total, metrics = gaussian.loss(
    lambda x, t: 0.5 * x,
    CHAIN,
    settings,
    normal(0),
    t,
    normal(1),
    jnp.asarray(logvar, jnp.float32),
  )
  simple, vlb, gamma, expected = by_hand(name, kind, logvar, 0.7, 0.3)
  np.testing.assert_allclose(metrics['loss_simple'], simple, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss_vlb'], vlb, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss_gamma'], gamma, rtol=1e-5)
  np.testing.assert_allclose(metrics['logvar'], 0, atol=1e-6)
  np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_loss_without_log_variance_is_the_mean_error():
  settings = gaussian.LossSettings(loss_type='l2')
  total, metrics = gaussian.loss(
    lambda x, t: 0.5 * x,
    CHAIN,
    settings,
    normal(0),
    jnp.array([0, 10, 900]),
    normal(1),
  )
  simple, *_ = by_hand('eps', 'l2', np.zeros(1000), 1.0, 0.0)
  np.testing.assert_allclose(total, simple, rtol=1e-5)
  assert metrics.keys() == {'loss_simple', 'loss_vlb'}


def test_trained_log_variance_settles_at_the_log_of_the_error():
  # d/dv of e exp(-v) + v vanishes at v = log e.
  settings = gaussian.LossSettings(loss_type='l2')
  t = jnp.array([7, 7, 7])

  def total(logvar):
    return gaussian.loss(
      lambda x, t: 0.5 * x, CHAIN, settings, normal(0), t, normal(1), logvar
    )

  _, metrics = total(jnp.zeros(1000))
  # Three examples share the level; their mean error counts.
  best = jnp.zeros(1000).at[7].set(jnp.log(metrics['loss_simple']))
  gradient = jax.grad(lambda v: total(v)[0])(best)
  np.testing.assert_allclose(gradient, np.zeros(1000), atol=1e-6)
  assert abs(jax.grad(lambda v: total(v)[0])(jnp.zeros(1000))[7]) > 0.1


def test_unknown_names_are_told():
  with pytest.raises(ValueError, match="'score' is not one of"):
    gaussian.target('score', normal(0), normal(1), 1.0, 0.0)
  level = row(timesteps.levels(CHAIN, np.array([9]), 1.0), 0)
  with pytest.raises(ValueError, match="'score' is not one of"):
    Prediction.of('score', normal(0), normal(1), level)
  with pytest.raises(ValueError, match="'score' is not one of"):
    gaussian.LossSettings(loss_type='l1', parameterization='score')
  with pytest.raises(ValueError, match="'huber' is not one of"):
    gaussian.LossSettings(loss_type='huber')
