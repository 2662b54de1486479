"""Pseudo linear multistep (arXiv:2202.09778)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion.solvers import base


# Of the newest output and of those before, for 1, 2 and 3 outputs before.
_WEIGHTS = np.array(
  [
    [3 / 2, -1 / 2, 0, 0],
    [23 / 12, -16 / 12, 5 / 12, 0],
    [55 / 24, -59 / 24, 37 / 24, -9 / 24],
  ],
  np.float32,
)


@dataclasses.dataclass(frozen=True)
class PLMS(base.Solver):
  """Pseudo linear multistep (arXiv:2202.09778), fourth order.

  Matches CompVis/latent-diffusion: ldm/models/diffusion/plms.py: the first
  step is an improved Euler step with a second network call; the history is
  three network outputs. Not for levels with bands.
  """

  @property
  def first_step(self) -> base.Step | None:
    return _improved_euler

  def start(self, x: jax.Array, levels: base.Levels) -> base.Carry:
    if levels.has_bands:
      raise ValueError('plms does not take levels with bands')
    past = jnp.zeros((3, *x.shape), x.dtype)
    count = jnp.zeros((), jnp.int32)
    return base.Carry(x=x, prediction=base.nothing(x), history=(count, past))

  def step(self, carry: base.Carry, at: base.StepInputs) -> base.Carry:
    now = at.denoise(carry.x, at.level, True)
    count, past = carry.history
    return _moved(carry, now.eps, _multistep(now.eps, past, count), at)


def _improved_euler(carry: base.Carry, at: base.StepInputs) -> base.Carry:
  """Averages the noise of this level and that where an Euler step leads."""
  now = at.denoise(carry.x, at.level, True)
  there = base.euler(now, at.next_level)
  ahead = at.denoise(there, at.next_level, False)
  return _moved(carry, now.eps, (now.eps + ahead.eps) / 2, at)


def _moved(
  carry: base.Carry, now: jax.Array, eps: jax.Array, at: base.StepInputs
) -> base.Carry:
  """Steps along `eps` and remembers the network's output `now`."""
  count, past = carry.history
  prediction = base.Prediction.from_eps(carry.x, eps, at.level)
  x = base.euler(prediction, at.next_level)
  past = jnp.concatenate([now[None], past[:2]])
  return base.Carry(x, prediction, (count + 1, past))


def _multistep(eps: jax.Array, past: jax.Array, count: jax.Array) -> jax.Array:
  """Combines the new output with `past` (3, ...), newest first.

  Sums of products, not a matrix product, which accelerators round.
  """
  row = jnp.asarray(_WEIGHTS)[jnp.clip(count - 1, 0, 2)]
  return row[0] * eps + row[1] * past[0] + row[2] * past[1] + row[3] * past[2]
