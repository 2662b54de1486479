"""Sampling in continuous time (arXiv:2206.00364): grids, schedules, Heun.

The state at time t is s(t) (y + sigma(t) eps), with dx/dt = s'/s x + s sigma'
eps. Everything that depends on the time alone is tabulated on the host in
float64 and stored in float32.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import stepping


SOLVERS = ('heun', 'euler')
DISCRETIZATIONS = ('vp', 've', 'iddpm', 'edm')
SCHEDULES = ('vp', 've', 'linear')
SCALINGS = ('vp', 'none')

# What the VP process of the paper has, table 1.
_VP = edm.VP(epsilon_t=1e-3)
# Default range of sigma of each discretization.
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

  def slope(self, x: jax.Array, eps: jax.Array) -> jax.Array:
    """Returns dx/dt (eq. 81)."""
    return self.drift * x + self.gain * eps


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
class _Process:
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
    zero = np.zeros_like(t, np.float32)
    return Point(
      time=_float32(precond.c_noise(sigma)),
      alpha=_float32(np.where(noisy, alpha, 1.0)),
      sigma=_float32(np.where(noisy, alpha * sigma, 0.0)),
      log_beta=zero,
      log_variance=zero,
      length=1,
      drift=_float32(np.where(noisy, drift, 0.0)),
      gain=_float32(np.where(noisy, alpha * slope, 0.0)),
    )


def _float32(x: np.ndarray) -> Any:
  return np.asarray(x, np.float32)


def _process(
  schedule: str, scaling: str, low: float, high: float, epsilon_s: float
) -> _Process:
  """Returns a schedule; that of VP is fitted to the range of sigma."""
  scaled = scaling == 'vp'
  if schedule == 'linear':
    return _Process(
      sigma=lambda t: t,
      sigma_slope=np.ones_like,
      time=lambda sigma: sigma,
      scaled=scaled,
    )
  if schedule == 've':
    return _Process(
      sigma=np.sqrt,
      sigma_slope=lambda t: 0.5 / np.sqrt(t),
      time=np.square,
      scaled=scaled,
    )
  beta_d, beta_min = _betas(low, high, epsilon_s)
  sigma = lambda t: edm.vp_sigma(t, beta_d, beta_min)
  return _Process(
    sigma=sigma,
    sigma_slope=lambda t: (
      0.5 * (beta_min + beta_d * t) * (sigma(t) + 1.0 / sigma(t))
    ),
    time=lambda level: edm.vp_time(level, beta_d, beta_min),
    scaled=scaled,
  )


def _betas(low: float, high: float, epsilon_s: float) -> tuple[float, float]:
  """Returns the VP process that has `low` at epsilon_s and `high` at 1."""
  first, last = np.log1p(low**2), np.log1p(high**2)
  beta_d = 2.0 * (first / epsilon_s - last) / (epsilon_s - 1.0)
  return float(beta_d), float(last - 0.5 * beta_d)


def edm_grid(steps: int, low: float, high: float, rho: float) -> np.ndarray:
  """Returns (S,) falling levels, even in sigma^(1/rho) (eq. 5), float64."""
  ends = high ** (1 / rho), low ** (1 / rho)
  return (ends[0] + _even(steps) * (ends[1] - ends[0])) ** rho


def _even(steps: int) -> np.ndarray:
  return np.arange(steps) / max(1, steps - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun:
  """Heun's rule with churn (arXiv:2206.00364, algorithm 2), generalized.

  Matches `edm_sampler` and `ablation_sampler` of NVlabs/edm: generate.py. Two
  network calls a step and one in the last, or one always ('euler'). Levels
  come from a preconditioning instead of a chain and `sampling.Stage.enter`
  starts at `levels.sigma[0]` times the initial noise.

  Attributes:
    solver: 'heun' or 'euler'.
    discretization: where the steps lie: 'edm', or as 'vp', 've' and 'iddpm'
      lay them.
    schedule: sigma(t): 'linear' is t, 've' its root, 'vp' as of that process.
    scaling: s(t): 'none' is 1, 'vp' keeps the variance of noise below 1.
    alpha: where in the step the second call is: 1 Heun, 1/2 midpoint.
    sigma_min: the lowest level; None is the discretization's own, and what
      the network does not support is cut off.
    sigma_max: the highest.
    rho: how much the steps of 'edm' crowd at low noise.
    churn: S_churn, noise that is added anew, over all steps.
    churn_min: S_min, the lowest level at which it is.
    churn_max: S_max, the highest.
    churn_noise: S_noise, its standard deviation.
    epsilon_s: the smallest time of 'vp'.
    c1: of the levels of 'iddpm', see `edm.IDDPM`.
    c2: likewise.
    length: likewise, M.
  """

  solver: str = 'heun'
  discretization: str = 'edm'
  schedule: str = 'linear'
  scaling: str = 'none'
  alpha: float = 1.0
  sigma_min: float | None = None
  sigma_max: float | None = None
  rho: float = 7.0
  churn: float = 0.0
  churn_min: float = 0.0
  churn_max: float = math.inf
  churn_noise: float = 1.0
  epsilon_s: float = 1e-3
  c1: float = 1e-3
  c2: float = 8e-3
  length: int = 1000

  def __post_init__(self):
    for name, allowed in (
      ('solver', SOLVERS),
      ('discretization', DISCRETIZATIONS),
      ('schedule', SCHEDULES),
      ('scaling', SCALINGS),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f'{name} {getattr(self, name)!r} is not one of {allowed}'
        )
    for name in ('rho', 'alpha'):
      if getattr(self, name) <= 0:
        raise ValueError(f'{name} is {getattr(self, name)}, must be above 0')
    for name in ('churn', 'churn_noise'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name} is {getattr(self, name)}, must be at least 0')
    if not 0 < self.epsilon_s < 1:
      raise ValueError(
        f'epsilon_s is {self.epsilon_s}, must be between 0 and 1'
      )

  def levels(self, chain: edm.Preconditioning, steps: int) -> Levels:
    """Returns the levels of a sweep; see the class.

    Raises:
      ValueError: a chain of discrete levels, no steps, or a range of sigma
        without a level that the network supports.
    """
    if isinstance(chain, schedules.Chain):
      raise ValueError(
        f'{self.solver} in continuous time needs a preconditioning, one of'
        f' {edm.PRECONDITIONINGS}, got a chain of {chain.length} levels'
      )
    if steps < 1:
      raise ValueError(f'sampling steps {steps} must be at least 1')
    low, high = self._range(chain)
    process = _process(
      self.schedule, self.scaling, low, high, self.epsilon_s
    )
    sigmas = chain.round_sigma(self._grid(steps, low, high))
    t = process.time(sigmas)
    return self._tabulate(chain, process, t)

  def _range(self, precond: edm.Preconditioning) -> tuple[float, float]:
    """Returns the lowest and the highest level."""
    if self.discretization == 'vp':
      ends = [edm.vp_sigma(t, _VP.beta_d, _VP.beta_min) for t in
              (self.epsilon_s, 1.0)]
    else:
      ends = list(_RANGES[self.discretization])
    low = ends[0] if self.sigma_min is None else self.sigma_min
    high = ends[1] if self.sigma_max is None else self.sigma_max
    low, high = max(low, precond.sigma_min), min(high, precond.sigma_max)
    if not 0 < low < high < math.inf:
      raise ValueError(
        f'levels from sigma {low} to {high}: must rise from above 0, within'
        f' {precond.sigma_min}..{precond.sigma_max} of the network'
      )
    return float(low), float(high)

  def _grid(self, steps: int, low: float, high: float) -> np.ndarray:
    """Returns the (S,) falling levels."""
    if self.discretization == 'edm':
      return edm_grid(steps, low, high, self.rho)
    if self.discretization == 've':
      return np.sqrt(high**2 * (low**2 / high**2) ** _even(steps))
    if self.discretization == 'vp':
      t = 1.0 + _even(steps) * (self.epsilon_s - 1.0)
      return edm.vp_sigma(t, *_betas(low, high, self.epsilon_s))
    u = edm.iddpm_sigmas(self.length, self.c1, self.c2)
    u = u[(low <= u) & (u <= high)]
    if not len(u):
      raise ValueError(
        f'none of the {self.length} levels of iddpm lies in sigma'
        f' {low}..{high}'
      )
    return u[np.round((len(u) - 1) * _even(steps)).astype(int)]

  def _tabulate(
    self, precond: edm.Preconditioning, process: _Process, t: np.ndarray
  ) -> Levels:
    """Tabulates the steps from each of (S,) times to the next and to 0."""
    sigma = process.sigma(t)
    gamma = np.where(
      (self.churn_min <= sigma) & (sigma <= self.churn_max),
      min(self.churn / len(t), math.sqrt(2.0) - 1.0),
      0.0,
    )
    raised = precond.round_sigma(sigma * (1.0 + gamma))
    hat = np.where(gamma > 0, process.time(raised), t)
    step = np.append(t[1:], 0.0) - hat
    added = np.sqrt(np.maximum(process.sigma(hat) ** 2 - sigma**2, 0.0))
    middle = hat + self.alpha * step
    middle[-1] = hat[-1]  # not used: the step to 0 is Euler's
    if middle.min() <= 0:
      raise ValueError(
        f'alpha is {self.alpha}: a second call would lie below the noise level'
        ' 0; at most 1 is always allowed'
      )
    here = process.point(np.append(t, 0.0), precond)
    return Levels(
      **{f.name: getattr(here, f.name) for f in dataclasses.fields(here)},
      churned=process.point(_closed(hat), precond),
      middle=process.point(_closed(middle), precond),
      keep=_float32(_closed(process.alpha(hat) / process.alpha(t))),
      noise=_float32(
        _closed(added * process.alpha(hat) * self.churn_noise)
      ),
      length_of_step=_float32(_closed(step)),
    )

  def init(
    self, x: jax.Array, denoise: stepping.Denoise, levels: Levels
  ) -> tuple[stepping.Carry, int]:
    del denoise, levels
    return stepping.start(x), 0

  def step(
    self,
    carry: stepping.Carry,
    denoise: stepping.Denoise,
    level: Levels,
    next_level: Levels,
    noise: stepping.Draw,
  ) -> stepping.Carry:
    x = level.keep * carry.x
    if self.churn:
      x = x + level.noise * noise()
    now = denoise(x, level.churned, True)
    slope = level.churned.slope(x, now.eps)

    def corrected():
      there = x + self.alpha * level.length_of_step * slope
      ahead = denoise(there, level.middle, False)
      weight = 1.0 / (2.0 * self.alpha)
      other = level.middle.slope(there, ahead.eps)
      return (1.0 - weight) * slope + weight * other

    if self.solver == 'heun':
      # A level that was rounded may repeat, so the time does not tell the end.
      slope = jax.lax.cond(next_level.sigma > 0, corrected, lambda: slope)
    x = x + level.length_of_step * slope
    return stepping.Carry(x=x, prediction=now)


def _closed(values: np.ndarray) -> np.ndarray:
  """Adds a row for the end level, from which no step begins."""
  return np.append(values, values[-1])
