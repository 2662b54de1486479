"""DPM-Solver++ (2M), a solver in the log signal-to-noise ratio.

With h the step in lambda = log(alpha / sigma), a DDIM step is exact for a
constant clean prediction; this solver lets it change linearly in lambda.
"""

import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion.solvers import base


Levels = base.Levels
StepInputs = base.StepInputs


@dataclasses.dataclass(frozen=True)
class DPMSolverPP2M(base.Solver):
  """DPM-Solver++ (2M) (arXiv:2211.01095, algorithm 2), one call a step.

  The clean state is extrapolated in half the log signal-to-noise ratio from
  this step's prediction and the last one's. The first step and the last are
  of first order.
  """

  def start(self, x: jax.Array, levels: Levels) -> base.Carry:
    history = far_past(x, levels)
    return base.Carry(x=x, prediction=base.nothing(x), history=history)

  def step(self, carry: base.Carry, at: StepInputs) -> base.Carry:
    now = at.denoise(carry.x, at.level, True)
    x = extrapolated(carry.x, now.x0, carry.history, at)
    history = (now.x0, half_log_snr(at.level))
    return base.Carry(x=x, prediction=now, history=history)


def far_past(x: jax.Array, levels: Levels) -> tuple[jax.Array, jax.Array]:
  """Returns a past prediction so far away that its weight is 0."""
  nowhere = jnp.full_like(levels_lib.row(levels, 0).alpha, -jnp.inf)
  return jnp.zeros_like(x), nowhere


def extrapolated(
  x: jax.Array, x0: jax.Array, history: tuple[jax.Array, ...], at: StepInputs
) -> jax.Array:
  """Returns the state at the end of a step.

  Args:
    x: the state at its beginning.
    x0: the clean prediction there.
    history: the clean prediction of the step before, and half the log
      signal-to-noise ratio at which it was made.
    at: the inputs of the step.
  """
  past, before = history
  here, ahead = half_log_snr(at.level), half_log_snr(at.next_level)
  # Of first order at either end, and where a level repeats.
  alone = ~at.next_level.is_trained | jnp.isinf(before) | (here == before)
  span = jnp.where(alone, 1.0, 2.0 * (here - before))
  weight = jnp.where(alone, 0.0, (ahead - here) / span)
  x0 = x0 + at.level.times(weight, x0 - past)
  return base.euler(base.Prediction.from_x0(x, x0, at.level), at.next_level)


def half_log_snr(level: Levels) -> jax.Array:
  """Returns log(alpha / sigma), infinite at a clean level."""
  return jnp.log(level.alpha) - jnp.log(level.sigma)
