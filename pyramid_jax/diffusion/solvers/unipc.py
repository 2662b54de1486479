"""UniPC (arXiv:2302.04867), a solver that corrects what it predicted."""

import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.diffusion.solvers import base
from pyramid_jax.diffusion.solvers import dpm_solver


Levels = base.Levels


@dataclasses.dataclass(frozen=True)
class UniPC(base.Solver):
  """UniPC of order 2 (arXiv:2302.04867, algorithms 1 and 2), one call a step.

  The variant that predicts clean states, with B(h) = exp(-h) - 1. Steps are
  those of DPM-Solver++ (2M), the first and the last of first order; the
  prediction made where a step ends also corrects that step before the next
  one begins. Nothing corrects the last.
  """

  def start(self, x: jax.Array, levels: Levels) -> base.Carry:
    if levels.has_bands:
      raise ValueError('unipc does not take levels with bands')
    history = (*dpm_solver.far_past(x, levels), *dpm_solver.far_past(x, levels))
    return base.Carry(x=x, prediction=base.nothing(x), history=history)

  def step(self, carry: base.Carry, at: base.StepInputs) -> base.Carry:
    now = at.denoise(carry.x, at.level, True)
    x = carry.x + _correction(now.x0, carry.history, at.level)
    x = dpm_solver.extrapolated(x, now.x0, carry.history[:2], at)
    history = now.x0, dpm_solver.half_log_snr(at.level), *carry.history[:2]
    return base.Carry(x=x, prediction=now, history=history)


def _correction(
  x0: jax.Array, history: tuple[jax.Array, ...], level: Levels
) -> jax.Array:
  """Returns what the corrector adds to the state at the end of a step.

  Corrector and predictor share the terms of the state and of the prediction
  they start from, so only the weights of the differences are left.

  Args:
    x0: the clean prediction of that state.
    history: the clean predictions at the beginning of the step and of the one
      before it, each followed by half the log signal-to-noise ratio there.
    level: of the state.
  """
  past, before, older, earlier = history
  h = dpm_solver.half_log_snr(level) - before
  ratio = (before - earlier) / h  # -r_1 of the paper
  rise = -jnp.expm1(-h)  # -B(h)
  # What the weights of a linear and of a quadratic change must sum to.
  linear = 1.0 / rise - 1.0 / h
  quadratic = linear + (1.0 - 2.0 * linear) / h
  of_past = (linear - quadratic) / (1.0 + ratio)
  of_now = jnp.where(jnp.isinf(earlier), 0.5, linear - of_past)
  slope = (past - older) / ratio  # 0 where nothing is older
  change = of_now * (x0 - past) + (of_past - 0.5) * slope
  stays = jnp.isinf(before) | (h == 0)  # nothing before, or a level repeats
  return jnp.where(stays, 0.0, level.alpha * rise * change)
