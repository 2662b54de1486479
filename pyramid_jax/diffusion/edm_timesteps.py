"""Timesteps in continuous time (arXiv:2206.00364): grids and schedules.

The state at time t is s(t) (y + sigma(t) eps). Everything that depends on the
time alone is tabulated on the host in float64 and stored in float32.
"""

from collections.abc import Callable
import dataclasses
import math

import numpy as np

from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import timesteps


Levels = levels_lib.Levels
float32 = levels_lib.float32

DISCRETIZATIONS = ('vp', 've', 'iddpm', 'edm')
SCHEDULES = ('vp', 've', 'linear')
SCALINGS = ('vp', 'none')

# Default range of sigma of the discretizations other than VP's.
_RANGES = {'ve': (0.02, 100.0), 'iddpm': (0.002, 81.0), 'edm': (0.002, 80.0)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Churn:
  """Noise that is added anew (arXiv:2206.00364, algorithm 2).

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
      if getattr(self, name) < 0:
        raise ValueError(
          f'churn {name} is {getattr(self, name)}, must be at least 0'
        )

  def raised(self, sigma: np.ndarray, steps: int) -> np.ndarray:
    """Returns (S,) gamma: sigma is raised to (1 + gamma) sigma."""
    return np.where(
      (self.low <= sigma) & (sigma <= self.high),
      min(self.amount / max(1, steps), math.sqrt(2.0) - 1.0),
      0.0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdmTimesteps:
  """Where the steps of a preconditioned network lie, and in what they go.

  Matches `edm_sampler` and `ablation_sampler` of NVlabs/edm: generate.py.

  Attributes:
    discretization: where the steps lie: 'edm', or as 'vp', 've' and 'iddpm'
      lay them; 'log_snr' is even in log sigma.
    schedule: sigma(t): 'linear' is t, 've' its root, 'vp' that of VP.
    scaling: s(t): 'none' is 1, 'vp' keeps the variance of noise below 1.
    alpha: where in a step the second network call is: 1 Heun, 1/2 midpoint.
    sigma_min: the lowest level; None is the discretization's own, and what
      the network does not support is cut off.
    sigma_max: the highest level; None is the discretization's own.
    rho: how much the steps of 'edm' crowd at low noise.
    churn: noise that is added anew.
    epsilon_s: the smallest time of 'vp'.
    c1: the smallest ratio of two neighbours' alphas_bar, of 'iddpm'.
    c2: offset of the cosine schedule of 'iddpm'.
    length: M, levels of 'iddpm'.
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
    for name, allowed in (
      ('discretization', (*DISCRETIZATIONS, 'log_snr')),
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
    if not 0 < self.epsilon_s < 1:
      raise ValueError(
        f'epsilon_s is {self.epsilon_s}, must be between 0 and 1'
      )

  def levels(self, precond: edm.Preconditioning, steps: int) -> Levels:
    """Returns the levels of a sweep of `steps` steps, and one row to 0.

    Args:
      precond: what stands around the network.
      steps: S.

    Raises:
      ValueError: no steps, or a range of sigma without a level that the
        network supports.
    """
    if steps < 1:
      raise ValueError(f'sampling steps {steps} must be at least 1')
    low, high = self._range(precond)
    process = make_process(
      self.schedule, self.scaling, low, high, self.epsilon_s
    )
    sigmas = precond.round_sigma(self._grid(steps, low, high))
    return self._tabulate(precond, process, process.time(sigmas))

  def _range(self, precond: edm.Preconditioning) -> tuple[float, float]:
    """Returns the lowest and the highest level."""
    ends = default_range(self.discretization, self.epsilon_s)
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
    even = timesteps.even(steps)
    if self.discretization == 'edm':
      return timesteps.karras_sigmas(steps, low, high, self.rho)
    if self.discretization in ('ve', 'log_snr'):
      return np.sqrt(high**2 * (low**2 / high**2) ** even)
    if self.discretization == 'vp':
      t = 1.0 + even * (self.epsilon_s - 1.0)
      return edm.vp_sigma(t, *vp_betas(low, high, self.epsilon_s))
    u = edm.iddpm_sigmas(self.length, self.c1, self.c2)
    u = u[(low <= u) & (u <= high)]
    if not len(u):
      raise ValueError(
        f'none of the {self.length} levels of iddpm lies in sigma {low}..{high}'
      )
    return u[np.round((len(u) - 1) * even).astype(int)]

  def _tabulate(
    self, precond: edm.Preconditioning, process: 'TimeProcess', t: np.ndarray
  ) -> Levels:
    """Tabulates the steps from each of (S,) times to the next and to 0."""
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
    here = process.point(np.append(t, 0.0), precond)
    return dataclasses.replace(
      here,
      hat=process.point(closed(hat), precond),
      mid=process.point(closed(mid), precond),
      h=float32(closed(step)),
      keep=float32(closed(process.alpha(hat) / process.alpha(t))),
      noise=float32(closed(added * process.alpha(hat) * self.churn.noise)),
      initial_std=float(here.sigma[0]),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeProcess:
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

  def point(self, t: np.ndarray, precond: edm.Preconditioning) -> Levels:
    """Tabulates (S+1,) times; at time 0 there is no slope, and no network."""
    noisy = t > 0
    safe = np.where(noisy, t, t[noisy].min())
    ratio, slope = self.sigma(safe), self.sigma_slope(safe)
    alpha = self.alpha(safe)
    dalpha = -ratio * slope * alpha**3 if self.scaled else np.zeros_like(t)
    dsigma = dalpha * ratio + alpha * slope
    alpha = np.where(noisy, alpha, 1.0)
    sigma = np.where(noisy, alpha * ratio, 0.0)
    logs = (np.zeros_like(t),) * 2
    if np.all(np.diff(sigma) < 0):  # rows in sampling order
      logs = levels_lib.ancestral_logs(alpha, sigma)
    return Levels(
      time=float32(precond.c_noise(self.sigma(safe))),
      alpha=float32(alpha),
      sigma=float32(sigma),
      part=float32(np.arctan2(sigma, alpha) * (2.0 / np.pi)),
      log_beta=float32(logs[0]),
      log_variance=float32(logs[1]),
      t=float32(t),
      frame=float32(np.ones_like(t)),
      dalpha=float32(np.where(noisy, dalpha, 0.0)),
      dsigma=float32(np.where(noisy, dsigma, 0.0)),
      is_trained=levels_lib.flags(noisy),
      h=float32(np.append(np.diff(t), 0.0)),
    )


def make_process(
  schedule: str, scaling: str, low: float, high: float, epsilon_s: float
) -> TimeProcess:
  """Returns a schedule; that of VP is fitted to the range of sigma."""
  scaled = scaling == 'vp'
  if schedule == 'linear':
    return TimeProcess(
      sigma=lambda t: t,
      sigma_slope=np.ones_like,
      time=lambda sigma: sigma,
      scaled=scaled,
    )
  if schedule == 've':
    return TimeProcess(
      sigma=np.sqrt,
      sigma_slope=lambda t: 0.5 / np.sqrt(t),
      time=np.square,
      scaled=scaled,
    )
  beta_d, beta_min = vp_betas(low, high, epsilon_s)
  sigma = lambda t: edm.vp_sigma(t, beta_d, beta_min)
  return TimeProcess(
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
  return _RANGES['edm' if discretization == 'log_snr' else discretization]


def closed(values: np.ndarray) -> np.ndarray:
  """Adds a row for the end level, from which no step begins."""
  return np.append(values, values[-1])
