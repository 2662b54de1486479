"""The solver of preconditioned networks, in continuous time."""

import dataclasses
import math

import jax
import numpy as np

from pyramid_jax.diffusion import clocks
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import stepping


SOLVERS = ('heun', 'euler')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(stepping.Scanned):
  """Heun's rule with churn (arXiv:2206.00364, algorithm 2), generalized.

  Matches `edm_sampler` and `ablation_sampler` of NVlabs/edm: generate.py. Two
  network calls a step and one in the last, or one always ('euler'). The levels
  come from a preconditioning instead of a chain, and `sampling.Stage.enter`
  starts at `levels.initial_std` times the initial noise.

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
      ('discretization', clocks.DISCRETIZATIONS),
      ('schedule', clocks.SCHEDULES),
      ('scaling', clocks.SCALINGS),
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

  def levels(self, chain: edm.Preconditioning, steps: int) -> clocks.Levels:
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
    process = clocks.process(
      self.schedule, self.scaling, low, high, self.epsilon_s
    )
    sigmas = chain.round_sigma(self._grid(steps, low, high))
    t = process.time(sigmas)
    return self._tabulate(chain, process, t)

  def _range(self, precond: edm.Preconditioning) -> tuple[float, float]:
    """Returns the lowest and the highest level."""
    ends = clocks.default_range(self.discretization, self.epsilon_s)
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
      return clocks.edm_grid(steps, low, high, self.rho)
    if self.discretization == 've':
      return np.sqrt(high**2 * (low**2 / high**2) ** clocks.even(steps))
    if self.discretization == 'vp':
      t = 1.0 + clocks.even(steps) * (self.epsilon_s - 1.0)
      return edm.vp_sigma(t, *clocks.vp_betas(low, high, self.epsilon_s))
    u = edm.iddpm_sigmas(self.length, self.c1, self.c2)
    u = u[(low <= u) & (u <= high)]
    if not len(u):
      raise ValueError(
        f'none of the {self.length} levels of iddpm lies in sigma {low}..{high}'
      )
    return u[np.round((len(u) - 1) * clocks.even(steps)).astype(int)]

  def _tabulate(
    self, precond: edm.Preconditioning, process: clocks.Process, t: np.ndarray
  ) -> clocks.Levels:
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
    return clocks.Levels(
      **{f.name: getattr(here, f.name) for f in dataclasses.fields(here)},
      churned=process.point(_closed(hat), precond),
      middle=process.point(_closed(middle), precond),
      keep=clocks.float32(_closed(process.alpha(hat) / process.alpha(t))),
      noise=clocks.float32(
        _closed(added * process.alpha(hat) * self.churn_noise)
      ),
      length_of_step=clocks.float32(_closed(step)),
    )

  def step(
    self,
    carry: stepping.Carry,
    denoise: stepping.Denoise,
    level: clocks.Levels,
    next_level: clocks.Levels,
    noise: stepping.Draw,
  ) -> stepping.Carry:
    x = kept = level.times(level.keep, carry.x)
    if self.churn:
      x = x + level.times(level.noise, noise())
    now = denoise(x, level.churned, True)
    slope = level.churned.slope(x, now)

    def corrected():
      there = x + self.alpha * level.length_of_step * slope
      ahead = denoise(there, level.middle, False)
      weight = 1.0 / (2.0 * self.alpha)
      other = level.middle.slope(there, ahead)
      return (1.0 - weight) * slope + weight * other

    if self.solver == 'heun':
      # A level that was rounded may repeat, so the time does not tell the end.
      slope = jax.lax.cond(next_level.sigma > 0, corrected, lambda: slope)
    step = level.length_of_step * slope
    mean = kept + step if self.churn else None
    return stepping.Carry(x=x + step, prediction=now, mean=mean)


def _closed(values: np.ndarray) -> np.ndarray:
  """Adds a row for the end level, from which no step begins."""
  return np.append(values, values[-1])
