"""DPM-Solver++ and UniPC against plain loops and a known trajectory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.levels import Prediction


CHAIN = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0195)

# A mixture of normals in the plane has a best denoiser in closed form.
COUNT = 256
MEANS = np.random.default_rng(1).normal(size=(6, 2))
STDS = np.linspace(0.1, 0.4, 6)
BEGIN = np.random.default_rng(2).normal(size=(COUNT, 1, 1, 2))


def mixture_eps(xp, x, alpha, sigma):
  """The noise to be expected in x (..., 2); `xp` is NumPy or its twin."""
  variance = xp.asarray((alpha * STDS) ** 2 + sigma**2)
  apart = x[..., None, :] - alpha * MEANS
  logits = -(apart**2).sum(-1) / (2 * variance) - xp.log(variance)
  weights = xp.exp(logits - logits.max(-1, keepdims=True))
  weights = weights / weights.sum(-1, keepdims=True)
  return sigma * ((weights / variance)[..., None] * apart).sum(-2)


def sample(name, steps, spacing='log_snr', eps=mixture_eps, begin=BEGIN):
  """Returns a solver's samples and its levels."""
  solver = solvers.create(name)
  levels = timesteps.spaced_levels(CHAIN, steps, spacing)

  def denoise(x, level, context, first=True):
    del context, first
    noise = eps(jnp, x, level.alpha, level.sigma)
    return Prediction.from_eps(x, noise, level)

  stage = sampling.Stage(
    segments=(sampling.Segment(levels=levels, denoise=denoise),),
    enter=lambda state, normal: (normal(begin.shape), None),
    leave=lambda state, x, x0, context: [*state, x],
  )
  noise = sampling.Noise.recorded([jnp.asarray(begin, jnp.float32)])
  (x,) = jax.jit(functools.partial(sampling.run, [stage], solver))(noise)
  return np.asarray(x), levels


@functools.cache
def trajectory_end():
  """Where the trajectories of BEGIN lead, by Runge-Kutta in 2000 steps."""
  bar = CHAIN.alphas_bar
  ends = np.sqrt(1 / bar[[-1, 0]] - 1)  # sigma / alpha
  grid = np.geomspace(*ends, 2001)

  def slope(y, ratio):
    alpha = 1 / np.sqrt(1 + ratio**2)
    return mixture_eps(np, alpha * y, alpha, alpha * ratio)

  y = BEGIN / np.sqrt(bar[-1])
  for now, after in zip(grid[:-1], grid[1:], strict=True):
    h, middle = after - now, (now + after) / 2
    k1 = slope(y, now)
    k2 = slope(y + h / 2 * k1, middle)
    k3 = slope(y + h / 2 * k2, middle)
    k4 = slope(y + h * k3, after)
    y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
  return y * np.sqrt(bar[0])


def error(name, steps):
  x, _ = sample(name, steps)
  return np.sqrt(np.square(x - trajectory_end()).mean())


@pytest.mark.parametrize('steps', [10, 20, 50])
def test_unipc_is_nearest_at_equal_calls(steps):
  errors = [error(name, steps) for name in ('unipc', 'dpmpp_2m', 'ddim')]
  assert errors[0] < 0.8 * errors[1]
  assert errors[1] < 0.5 * errors[2]


def unipc_loop(eps, x, levels):
  """UniPC-2 as printed: matrices of weights, the whole of every update.

  Algorithms 1 and 2 of arXiv:2302.04867 with data predictions, B = e^-h - 1,
  weight 1/2 where an order has a single one, and an Euler step at the end.
  """
  alpha, sigma = (
    np.asarray(a, np.float64) for a in (levels.alpha, levels.sigma)
  )
  lam = np.log(alpha) - np.log(sigma)
  predict = lambda x, i: (
    (x - sigma[i] * eps(np, x, alpha[i], sigma[i])) / (alpha[i])
  )

  def update(x, i, m, rs, weights, others):
    """From level i to i + 1; m is the clean prediction at i."""
    h = lam[i + 1] - lam[i]
    b = np.expm1(-h)
    parts = [
      w * (o - m) / r for w, o, r in zip(weights, others, rs, strict=True)
    ]
    linear = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * b * m
    return linear - alpha[i + 1] * b * sum(parts, np.zeros_like(x))

  count = len(alpha) - 1
  ms = [predict(x, 0)]
  for i in range(count):
    h = lam[i + 1] - lam[i]
    rs, others = [], []
    if i:
      rs, others = [(lam[i - 1] - lam[i]) / h], [ms[i - 1]]
    if i == count - 1:
      return update(x, i, ms[i], [], [], [])
    guess = update(x, i, ms[i], rs, [0.5] * len(rs), others)
    ms.append(predict(guess, i + 1))
    rs, others = [*rs, 1.0], [*others, ms[i + 1]]
    weights = [0.5]
    if i:
      hh = -h
      phi_2 = np.expm1(hh) / hh - 1
      phi_3 = phi_2 / hh - 0.5
      sums = np.array([phi_2, 2 * phi_3]) / np.expm1(hh)
      weights = np.linalg.solve(np.array([[1, 1], rs]), sums)
    x = update(x, i, ms[i], rs, weights, others)
  return x


@pytest.mark.parametrize('spacing', ['official', 'log_snr'])
@pytest.mark.parametrize('steps', [1, 2, 4, 20, 500])
def test_unipc_equals_a_plain_numpy_loop(steps, spacing):
  w = np.random.default_rng(3).normal(size=(2, 2)) * 0.5

  def eps(xp, x, alpha, sigma):
    return xp.tanh(x @ w) * sigma + 0.3 * alpha * x

  got, levels = sample('unipc', steps, spacing, eps)
  want = unipc_loop(eps, BEGIN, levels)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
  if steps == 4:  # the tolerance tells the solvers apart
    other, _ = sample('dpmpp_2m', steps, spacing, eps)
    assert np.abs(other - want).max() > 1e-2


def test_dpm_solver_equals_a_plain_numpy_loop():
  got, levels = sample('dpmpp_2m', 10)
  alpha, sigma = (
    np.asarray(a, np.float64) for a in (levels.alpha, levels.sigma)
  )
  h = np.diff(np.log(alpha) - np.log(sigma))
  x, past = BEGIN, None
  for i in range(10):
    m = (x - sigma[i] * mixture_eps(np, x, alpha[i], sigma[i])) / alpha[i]
    ahead = m
    if 0 < i < 9:
      r = h[i - 1] / h[i]
      ahead = (1 + 1 / (2 * r)) * m - 1 / (2 * r) * past
    x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * np.expm1(-h[i]) * ahead
    past = m
  np.testing.assert_allclose(got, x, rtol=1e-3, atol=1e-3)
