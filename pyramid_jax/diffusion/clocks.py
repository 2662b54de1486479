"""Noise levels in continuous time (arXiv:2206.00364): grids and schedules.

The state at time t is s(t) (y + sigma(t) eps), with dx/dt = s'/s x + s sigma'
eps. Everything that depends on the time alone is tabulated on the host in
float64 and stored in float32.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import stepping


DISCRETIZATIONS = ('vp', 've', 'iddpm', 'edm')
SCHEDULES = ('vp', 've', 'linear')
SCALINGS = ('vp', 'none')

# Default range of sigma of the discretizations other than VP's.
_RANGES = {'ve': (0.02, 100.0), 'iddpm': (0.002, 81.0), 'edm': (0.002, 80.0)}


@flax.struct.dataclass
class Point(schedules.Levels):
  """Levels with what their slope needs, (S+1,) float32 each.

  Attributes, beside those of `schedules.Levels`:
    drift: s' / s.
    gain: s sigma'.
  """

  drift: jax.Array
  gain: jax.Array

  @property
  def part(self) -> jax.Array:
    """(S+1,) the place in the time of a cosine chain, from 0, clean, to 1."""
    m = np if isinstance(self.sigma, np.ndarray | np.generic) else jnp
    return m.arctan2(self.sigma, self.alpha) * (2.0 / np.pi)

  @property
  def initial_std(self) -> jax.Array | float:
    """Standard deviation of the state in which a whole sweep begins."""
    return self.sigma[0]

  def slope(self, x: jax.Array, prediction: stepping.Prediction) -> jax.Array:
    """Returns dx/dt of the noise-free process (algorithm 1)."""
    return self.drift * x + self.gain * prediction.eps


@flax.struct.dataclass
class Levels(Point):
  """The levels of a sweep and what its steps need, (S+1,) float32 each.

  Attributes, beside those of `Point`:
    churned: where a step begins, at `hat t >= t`.
    middle: where it evaluates the network again.
    keep: factor of the state on the way to `churned`.
    noise: standard deviation of what is added there.
    length_of_step: from `churned` to the next level, in t.
  """

  churned: Point
  middle: Point
  keep: jax.Array
  noise: jax.Array
  length_of_step: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
  """sigma(t) and s(t): functions of float64 arrays on the host."""

  sigma: Callable[[np.ndarray], np.ndarray]
  sigma_slope: Callable[[np.ndarray], np.ndarray]
  time: Callable[[np.ndarray], np.ndarray]
  scaled: bool

  def alpha(self, t: np.ndarray) -> np.ndarray:
    """Returns s(t)."""
    if not self.scaled:
      return np.ones_like(t)
    return 1.0 / np.sqrt(1.0 + self.sigma(t) ** 2)

  def point(self, t: np.ndarray, precond: edm.Preconditioning) -> Point:
    """Tabulates (S+1,) times; at time 0 there is no slope, and no network."""
    noisy = t > 0
    safe = np.where(noisy, t, t[noisy].min())
    sigma, slope = self.sigma(safe), self.sigma_slope(safe)
    alpha = self.alpha(safe)
    drift = -sigma * slope * alpha**2 if self.scaled else np.zeros_like(t)
    zero = float32(np.zeros_like(t))
    return Point(
      time=float32(precond.c_noise(sigma)),
      alpha=float32(np.where(noisy, alpha, 1.0)),
      sigma=float32(np.where(noisy, alpha * sigma, 0.0)),
      log_beta=zero,
      log_variance=zero,
      length=1,
      drift=float32(np.where(noisy, drift, 0.0)),
      gain=float32(np.where(noisy, alpha * slope, 0.0)),
    )


def float32(x: np.ndarray) -> Any:
  """Rounds what was tabulated; on the host still."""
  return np.asarray(x, np.float32)


def process(
  schedule: str, scaling: str, low: float, high: float, epsilon_s: float
) -> Process:
  """Returns a schedule; that of VP is fitted to the range of sigma."""
  scaled = scaling == 'vp'
  if schedule == 'linear':
    return Process(
      sigma=lambda t: t,
      sigma_slope=np.ones_like,
      time=lambda sigma: sigma,
      scaled=scaled,
    )
  if schedule == 've':
    return Process(
      sigma=np.sqrt,
      sigma_slope=lambda t: 0.5 / np.sqrt(t),
      time=np.square,
      scaled=scaled,
    )
  beta_d, beta_min = vp_betas(low, high, epsilon_s)
  sigma = lambda t: edm.vp_sigma(t, beta_d, beta_min)
  return Process(
    sigma=sigma,
    sigma_slope=lambda t: (
      0.5 * (beta_min + beta_d * t) * (sigma(t) + 1.0 / sigma(t))
    ),
    time=lambda level: edm.vp_time(level, beta_d, beta_min),
    scaled=scaled,
  )


def vp_betas(low: float, high: float, epsilon_s: float) -> tuple[float, float]:
  """Returns the VP process that has `low` at epsilon_s and `high` at 1."""
  first, last = np.log1p(low**2), np.log1p(high**2)
  beta_d = 2.0 * (first / epsilon_s - last) / (epsilon_s - 1.0)
  return float(beta_d), float(last - 0.5 * beta_d)


def default_range(discretization: str, epsilon_s: float) -> tuple[float, float]:
  """Returns the lowest and the highest noise level of a discretization."""
  if discretization == 'vp':
    vp = edm.VP(epsilon_t=epsilon_s)
    return vp.sigma_min, vp.sigma_max
  return _RANGES[discretization]


def edm_grid(steps: int, low: float, high: float, rho: float) -> np.ndarray:
  """Returns (S,) falling levels, even in sigma^(1/rho) (eq. 5), float64."""
  ends = high ** (1 / rho), low ** (1 / rho)
  return (ends[0] + even(steps) * (ends[1] - ends[0])) ** rho


def even(steps: int) -> np.ndarray:
  """Returns (S,) numbers from 0 to 1."""
  return np.arange(steps) / max(1, steps - 1)
