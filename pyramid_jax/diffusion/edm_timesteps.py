"""Timesteps in continuous time (arXiv:2206.00364): grids and schedules.

The state at time t is s(t) (y + sigma(t) eps). Everything that depends on the
time alone is tabulated on the host in float64 and stored in float32.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import numpy as np

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import timesteps


Levels = levels_lib.Levels
float32 = levels_lib.float32

DISCRETIZATIONS = ('vp', 've', 'iddpm', 'edm')
SCHEDULES = ('vp', 've', 'linear')
SCALINGS = ('vp', 'none')

# Default range of sigma of the discretizations other than VP's.
_RANGES = {'ve': (0.02, 100.0), 'iddpm': (0.002, 81.0)}
_RANGES['edm'] = _RANGES['log_snr'] = (0.002, 80.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Churn:
  """Noise that is added before a step (arXiv:2206.00364, algorithm 2).

  Attributes:
    amount: S_churn, over all steps of a stage.
    low: S_min, the lowest sigma at which noise is added.
    high: S_max, the highest.
    noise: S_noise, the standard deviation of that noise.
  """

  amount: float = 0.0
  low: float = 0.0
  high: float = math.inf
  noise: float = 1.0

  def __post_init__(self):
    for name in ('amount', 'noise'):
      value = getattr(self, name)
      checks.check(f'churn {name}', value, value >= 0, 'at least 0')

  def raised(self, sigma: np.ndarray, steps: int) -> np.ndarray:
    """Returns (S,) gamma: sigma is raised to (1 + gamma) sigma."""
    gamma = min(self.amount / max(1, steps), math.sqrt(2.0) - 1.0)
    return np.where((self.low <= sigma) & (sigma <= self.high), gamma, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdmTimesteps:
  """Where the steps of a preconditioned network lie, and sigma(t) and s(t).

  Matches `edm_sampler` and `ablation_sampler` of NVlabs/edm: generate.py.

  Attributes:
    discretization: where the steps lie, one of `DISCRETIZATIONS`, or 'log_snr'
      for levels that are even in log sigma.
    schedule: sigma(t): 'linear' is t, 've' its root, 'vp' that of VP.
    scaling: s(t): 'none' is 1, 'vp' keeps the variance of noise below 1.
    alpha: where in a step the second network call is: 1 Heun, 1/2 midpoint.
    sigma_min: the lowest level within the network's range; None is the
      discretization's own.
    sigma_max: the highest level within the network's range; None is the
      discretization's own.
    rho: the exponent of 'edm': a larger one has more low levels.
    churn: noise that is added before the steps.
    epsilon_s: the smallest time of 'vp'.
    c1: C_1 of 'iddpm', see `edm.IDDPM`.
    c2: C_2 of 'iddpm'.
    length: M of 'iddpm'.
  """

  discretization: str = 'edm'
  schedule: str = 'linear'
  scaling: str = 'none'
  alpha: float = 1.0
  sigma_min: float | None = None
  sigma_max: float | None = None
  rho: float = 7.0
  churn: Churn = Churn()
  epsilon_s: float = 1e-3
  c1: float = 1e-3
  c2: float = 8e-3
  length: int = 1000

  def __post_init__(self):
    names = *DISCRETIZATIONS, 'log_snr'
    checks.one_of('discretization', self.discretization, names)
    checks.one_of('schedule', self.schedule, SCHEDULES)
    checks.one_of('scaling', self.scaling, SCALINGS)
    checks.check('rho', self.rho, self.rho > 0, 'above 0')
    checks.check('alpha', self.alpha, self.alpha > 0, 'above 0')
    ok = 0 < self.epsilon_s < 1
    checks.check('epsilon_s', self.epsilon_s, ok, 'between 0 and 1')

  def levels(self, precond: edm.Preconditioning, steps: int) -> Levels:
    """Returns the levels of a sweep that ends at 0.

    Raises:
      ValueError: no steps, or a range of sigma without a level that the
        network supports.
    """
    checks.check_steps(steps)
    low, high = self._range(precond)
    process = self._process(low, high)
    sigmas = precond.round_sigma(self._grid(steps, low, high))
    return self._tabulate(precond, process, process.time(sigmas))

  def _range(self, precond: edm.Preconditioning) -> tuple[float, float]:
    """Returns the lowest and the highest level."""
    vp = edm.VP(epsilon_t=self.epsilon_s)
    ranges = {**_RANGES, 'vp': (vp.sigma_min, vp.sigma_max)}
    low, high = ranges[self.discretization]
    low = low if self.sigma_min is None else self.sigma_min
    high = high if self.sigma_max is None else self.sigma_max
    low, high = max(low, precond.sigma_min), min(high, precond.sigma_max)
    if not 0 < low < high < math.inf:
      raise ValueError(
        f'levels from sigma {low} to {high}: must rise from above 0, within'
        f' {precond.sigma_min}..{precond.sigma_max} of the network'
      )
    return float(low), float(high)

  def _grid(self, steps: int, low: float, high: float) -> np.ndarray:
    """Returns the (S,) falling levels."""
    even = timesteps.even(steps)
    if self.discretization == 'edm':
      return timesteps.karras_sigmas(steps, low, high, self.rho)
    if self.discretization in ('ve', 'log_snr'):
      return np.sqrt(high**2 * (low**2 / high**2) ** even)
    if self.discretization == 'vp':
      t = 1.0 + even * (self.epsilon_s - 1.0)
      return edm.vp_sigma(t, *_vp_betas(low, high, self.epsilon_s))
    u = edm.iddpm_sigmas(self.length, self.c1, self.c2)
    u = u[(low <= u) & (u <= high)]
    if not len(u):
      raise ValueError(
        f'none of the {self.length} levels of iddpm lies in sigma {low}..{high}'
      )
    return u[np.round((len(u) - 1) * even).astype(int)]

  def _process(self, low: float, high: float) -> 'TimeProcess':
    """Returns sigma(t) and s(t); sigma(t) of VP is fitted to the range."""
    betas = beta_d, beta_min = _vp_betas(low, high, self.epsilon_s)
    vp_sigma = lambda t: edm.vp_sigma(t, *betas)
    vp_slope = lambda t: (
      0.5 * (beta_min + beta_d * t) * (vp_sigma(t) + 1.0 / vp_sigma(t))
    )
    functions: dict[str, tuple[Any, ...]] = {
      'linear': (lambda t: t, np.ones_like, lambda sigma: sigma),
      've': (np.sqrt, lambda t: 0.5 / np.sqrt(t), np.square),
      'vp': (vp_sigma, vp_slope, lambda sigma: edm.vp_time(sigma, *betas)),
    }
    sigma, slope, time = functions[self.schedule]
    return TimeProcess(sigma, slope, time, self.scaling == 'vp')

  def _tabulate(
    self, precond: edm.Preconditioning, process: 'TimeProcess', t: np.ndarray
  ) -> Levels:
    """Tabulates the steps from each of (S,) times to the next, and to 0."""
    sigma = process.sigma(t)
    gamma = self.churn.raised(sigma, len(t))
    raised = precond.round_sigma(sigma * (1.0 + gamma))
    hat = np.where(gamma > 0, process.time(raised), t)
    step = np.append(t[1:], 0.0) - hat
    added = np.sqrt(np.maximum(process.sigma(hat) ** 2 - sigma**2, 0.0))
    mid = hat + self.alpha * step
    mid[-1] = hat[-1]  # not used: the step to 0 is Euler's
    if mid.min() <= 0:
      raise ValueError(
        f'alpha is {self.alpha}: a second call would lie below the noise level'
        ' 0; at most 1 is always allowed'
      )
    alpha = process.alpha(hat)
    here = process.levels(np.append(t, 0.0), precond)
    return dataclasses.replace(
      here,
      hat=process.levels(_closed(hat), precond),
      mid=process.levels(_closed(mid), precond),
      h=float32(_closed(step)),
      keep=float32(_closed(alpha / process.alpha(t))),
      noise=float32(_closed(added * alpha * self.churn.noise)),
      initial_std=float(here.sigma[0]),
    )


@dataclasses.dataclass(frozen=True)
class TimeProcess:
  """sigma(t), its slope and its inverse; s(t) is 1 unless `scaled`.

  Functions of float64 arrays on the host.
  """

  sigma: Callable[[np.ndarray], np.ndarray]
  sigma_slope: Callable[[np.ndarray], np.ndarray]
  time: Callable[[np.ndarray], np.ndarray]
  scaled: bool

  def alpha(self, t: np.ndarray) -> np.ndarray:
    """Returns s(t)."""
    if not self.scaled:
      return np.ones_like(t)
    return 1.0 / np.sqrt(1.0 + self.sigma(t) ** 2)

  def levels(self, t: np.ndarray, precond: edm.Preconditioning) -> Levels:
    """Tabulates (S+1,) times; at time 0 there is no slope, and no network."""
    noisy = t > 0
    safe = np.where(noisy, t, t[noisy].min())
    ratio, slope = self.sigma(safe), self.sigma_slope(safe)
    alpha = self.alpha(safe)
    dalpha = -ratio * slope * alpha**3 if self.scaled else np.zeros_like(t)
    dsigma = dalpha * ratio + alpha * slope
    alpha = np.where(noisy, alpha, 1.0)
    sigma = np.where(noisy, alpha * ratio, 0.0)
    return levels_lib.make(
      time=precond.c_noise(ratio),
      alpha=alpha,
      sigma=sigma,
      part=np.arctan2(sigma, alpha) * (2.0 / np.pi),
      is_trained=noisy,
      path=(t, np.where(noisy, dalpha, 0.0), np.where(noisy, dsigma, 0.0)),
    )


def _vp_betas(low: float, high: float, epsilon_s: float) -> tuple[float, float]:
  """Returns the VP process that has `low` at epsilon_s and `high` at 1."""
  first, last = np.log1p(low**2), np.log1p(high**2)
  beta_d = 2.0 * (first / epsilon_s - last) / (epsilon_s - 1.0)
  return float(beta_d), float(last - 0.5 * beta_d)


def _closed(values: np.ndarray) -> np.ndarray:
  """Adds a row for the end level, from which no step begins."""
  return np.append(values, values[-1])
