"""Heun's and Euler's rules, with churn (arXiv:2206.00364, algorithm 2)."""

import dataclasses

import jax

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion.solvers import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(base.Solver):
  """Heun's rule of second order, generalized, or Euler's.

  Matches `edm_sampler` and `ablation_sampler` of NVlabs/edm: generate.py. Two
  network calls a step and one in the last, or one always ('euler'). On a
  discrete chain it integrates x / alpha in sigma / alpha, where an Euler step
  is a DDIM step. Levels with `hat` add noise before each step.

  Attributes:
    order: 2 is Heun's rule, 1 Euler's.
    alpha: where in a step the second call is: 1 Heun, 1/2 midpoint; the
      levels' `mid` must lie there.
    has_churn: whether noise is added before a step, as much as the levels say.
  """

  order: int = 2
  alpha: float = 1.0
  has_churn: bool = False

  def __post_init__(self):
    ok = self.order in (1, 2)
    checks.check('order', self.order, ok, '1 (Euler) or 2 (Heun)')

  def step(self, carry: base.Carry, at: base.StepInputs) -> base.Carry:
    level, next_level = at.level, at.next_level
    hat = level if level.hat is None else level.hat
    mid = next_level if level.mid is None else level.mid
    x = kept = carry.x
    if self.has_churn:
      if level.keep is None or level.noise is None:
        raise ValueError('churn needs levels in continuous time')
      kept = level.times(level.keep, carry.x)
      x = kept + level.times(level.noise, at.noise())
    now = at.denoise(x, hat, True)
    slope, h = hat.slope(now.x0, now.eps), level.h

    def corrected():
      there = (x / hat.frame + self.alpha * h * slope) * mid.frame
      ahead = at.denoise(there, mid, False)
      weight = 1.0 / (2.0 * self.alpha)
      other = mid.slope(ahead.x0, ahead.eps)
      return (1.0 - weight) * slope + weight * other

    if self.order == 2:
      slope = jax.lax.cond(next_level.is_trained, corrected, lambda: slope)
    moved = (x / hat.frame + h * slope) * next_level.frame
    mean = moved + (kept - x) if self.has_churn else None
    return base.Carry(x=moved, prediction=now, mean=mean)
