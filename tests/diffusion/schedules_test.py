import numpy as np
import pytest

from pyramid_jax.diffusion import schedules


def test_frido_schedule_has_the_published_values():
  chain = schedules.make_chain('linear', 1000, 0.0015, 0.0155)
  np.testing.assert_allclose(
    chain.betas[[0, 1, 500, 999]],
    [0.0015, 0.00150665767, 0.00666792154, 0.0155],
    rtol=1e-8,
  )
  np.testing.assert_allclose(
    chain.alphas_bar[[0, 250, 500, 750, 999]],
    [0.9985, 0.535476001, 0.150070051, 0.0173944740, 6.68665174e-4],
    rtol=1e-8,
  )


def test_cosine_schedule_equals_its_formula():
  chain = schedules.make_chain('cosine', 10)
  bar = lambda k: np.cos((k / 10 + 8e-3) / 1.008 * np.pi / 2) ** 2
  assert chain.betas[3] == pytest.approx(1 - bar(4) / bar(3))
  assert chain.betas.max() <= 0.999


def test_posterior_variance_equals_bayes_rule():
  chain = schedules.make_chain('linear', 50, 0.01, 0.2)
  t = 20
  a, b = chain.alphas_bar[t - 1], chain.betas[t]
  # Product of the densities of x_t given x_{t-1} and of x_{t-1} given x0.
  expected = 1 / ((1 - b) / b + 1 / (1 - a))
  assert chain.posterior_variance[t] == pytest.approx(expected)
  assert chain.posterior_variance[0] == 0


@pytest.mark.parametrize(
  ('steps', 'count', 'last'), [(200, 200, 996), (50, 50, 981), (30, 31, 991)]
)
def test_uniform_timesteps_are_the_official_ones(steps, count, last):
  times = schedules.uniform_timesteps(1000, steps)
  assert len(times) == count
  assert times[0] == 1
  assert times[-1] == last


@pytest.mark.parametrize('steps', [0, 300, 1000, 1001])
def test_uniform_timesteps_refuse_counts_that_cannot_work(steps):
  with pytest.raises(ValueError, match=str(steps)):
    schedules.uniform_timesteps(1000, steps)


def test_unknown_schedule_is_named():
  with pytest.raises(ValueError, match='quadratic'):
    schedules.make_chain('quadratic')


def test_levels_fall_and_end_where_asked():
  chain = schedules.make_chain()
  levels = schedules.levels(chain, np.array([1, 500, 999]), 1.0)
  assert levels.time.tolist() == [999, 500, 1, 1]
  assert np.all(np.diff(levels.sigma) < 0)
  assert levels.sigma[-1] == 0
  np.testing.assert_allclose(levels.alpha**2 + levels.sigma**2, 1, atol=1e-6)
