"""Solvers in the log signal-to-noise ratio: DPM-Solver++ (2M) and UniPC.

With h the step in lambda = log(alpha / sigma), a DDIM step is exact for a
clean prediction that stays constant; these solvers let it change linearly or
quadratically in lambda, from the predictions of earlier steps.
"""

import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import stepping


Levels = schedules.Levels
Carry = stepping.Carry
Denoise = stepping.Denoise
Draw = stepping.Draw
Prediction = stepping.Prediction


@dataclasses.dataclass(frozen=True)
class DPMSolverPP2M(stepping.Spaced, stepping.Scanned):
  """DPM-Solver++ (2M) (arXiv:2211.01095, algorithm 2), one call a step.

  The clean state is extrapolated in half the log signal-to-noise ratio from
  this step's prediction and the last one's. The first step and the last are
  of first order.

  Attributes:
    spacing: of the levels, see `schedules.spaced_levels`.
  """

  spacing: str = 'log_snr'

  def history(self, x: jax.Array, levels: Levels) -> tuple[jax.Array, ...]:
    return _nothing(x, levels)

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    del noise
    now = denoise(carry.x, level, True)
    past, before = carry.history
    x = _extrapolated(carry.x, now.x0, past, before, level, next_level)
    history = (now.x0, _half_log_snr(level))
    return Carry(x=x, prediction=now, history=history)


@dataclasses.dataclass(frozen=True)
class UniPC(stepping.Spaced, stepping.Scanned):
  """UniPC of order 2 (arXiv:2302.04867, algorithms 1 and 2), one call a step.

  The variant that predicts clean states, with B(h) = exp(-h) - 1. Steps are
  those of DPM-Solver++ (2M), the first and the last of first order; the
  prediction made where a step ends also corrects that step before the next
  one begins. Nothing corrects the last.

  Attributes:
    spacing: of the levels, see `schedules.spaced_levels`.
  """

  spacing: str = 'log_snr'

  def history(self, x: jax.Array, levels: Levels) -> tuple[jax.Array, ...]:
    return _nothing(x, levels) + _nothing(x, levels)

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    del noise
    now = denoise(carry.x, level, True)
    x = carry.x + _correction(now.x0, carry.history, level)
    past, before = carry.history[:2]
    history = (now.x0, _half_log_snr(level), past, before)
    x = _extrapolated(x, now.x0, past, before, level, next_level)
    return Carry(x=x, prediction=now, history=history)


def _nothing(x: jax.Array, levels: Levels) -> tuple[jax.Array, jax.Array]:
  """Returns a past prediction and its place, so far away that it weighs 0."""
  nowhere = jnp.full_like(stepping.row(levels, 0).alpha, -jnp.inf)
  return jnp.zeros_like(x), nowhere


def _extrapolated(
  x: jax.Array,
  x0: jax.Array,
  past: jax.Array,
  before: jax.Array,
  level: Levels,
  next_level: Levels,
) -> jax.Array:
  """Returns the state at `next_level`.

  Args:
    x: the state at `level`.
    x0: its clean prediction.
    past: the one before.
    before: half the log signal-to-noise ratio where that was made.
    level: of x.
    next_level: where the step leads.
  """
  here, ahead = _half_log_snr(level), _half_log_snr(next_level)
  alone = stepping.is_end(level, next_level) | jnp.isinf(before)
  weight = jnp.where(alone, 0.0, (ahead - here) / (2.0 * (here - before)))
  x0 = x0 + level.times(weight, x0 - past)
  return stepping.euler(Prediction.from_x0(x, x0, level), next_level)


def _correction(
  x0: jax.Array, history: tuple[jax.Array, ...], level: Levels
) -> jax.Array:
  """Returns what the corrector adds to the state that a step led to.

  Corrector and predictor share the terms of the state and of the prediction
  they start from, so only the weights of the differences are left.

  Args:
    x0: the clean prediction of that state.
    history: the prediction where the step began and its place; the same of
      the step before.
    level: of the state.
  """
  past, before, older, earlier = history
  h = _half_log_snr(level) - before
  ratio = (before - earlier) / h  # -r_1 of the paper
  rise = -jnp.expm1(-h)  # -B(h)
  # What the weights of a linear and of a quadratic change must sum to.
  linear = 1.0 / rise - 1.0 / h
  quadratic = linear + (1.0 - 2.0 * linear) / h
  of_past = (linear - quadratic) / (1.0 + ratio)
  of_now = jnp.where(jnp.isinf(earlier), 0.5, linear - of_past)
  slope = (past - older) / ratio  # 0 where nothing is older
  change = of_now * (x0 - past) + (of_past - 0.5) * slope
  return jnp.where(jnp.isinf(before), 0.0, level.alpha * rise * change)


def _half_log_snr(level: Levels) -> jax.Array:
  """Returns log(alpha / sigma), infinite at a clean level."""
  return jnp.log(level.alpha) - jnp.log(level.sigma)
