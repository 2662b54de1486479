"""Classifier-free guidance, as a function from stage to stage."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers


def double(x: jax.Array) -> jax.Array:
  """Returns (2B, ...): the batch, and the batch again."""
  return jnp.concatenate([x, x])


def classifier_free(
  stage: sampling.Stage,
  scale: float,
  interval: Sequence[float] = (),
  plain: sampling.Stage | None = None,
  *,
  channels: int | None = None,
  power: float | None = None,
  null: sampling.Stage | None = None,
) -> sampling.Stage:
  """Guides a stage: e = e_null + scale (e_cond - e_null), one batched call.

  arXiv:2207.12598 in the convention of CompVis/latent-diffusion:
  ldm/models/diffusion/ddim.py (scale 1 is no guidance), within an interval of
  noise levels if asked (arXiv:2404.07724).

  Args:
    stage: built for 2B images, the condition in the first half of the batch
      and the null condition in the second.
    scale: the guidance scale.
    interval: (from, to), both included, parts of the chain's time in [0, 1]:
      the scale acts in steps that begin there. () is everywhere.
    plain: the same stage built for B images with the condition alone, which
      takes the other steps.
    channels: how many of the noise's channels are guided; None is all. DiT
      and its kin guide 3 of a latent's 4.
    power: of the power-cosine schedule, which lets the scale grow from 1 to
      `scale` as the noise falls (`power_cosine`); None is a constant scale.
    null: the same stage built for B images with the null condition alone;
      with it and `plain` the result has `halves`.

  Returns:
    A stage of B images.

  Raises:
    ValueError: steps outside the interval, but no `plain`; no channels, or a
      power of 0 or below.
  """
  if channels is not None and channels < 1:
    raise ValueError(f'guided channels {channels} must be at least 1')
  if power is not None and power <= 0:
    raise ValueError(f'power {power} of the guidance schedule must be above 0')
  low, high = interval or (0.0, 1.0)
  parts = [
    (index, inside, levels)
    for index, (whole, _) in enumerate(stage.spans)
    for inside, levels in _cut(whole, low, high)
  ]
  everywhere = all(inside for _, inside, _ in parts)
  if not everywhere and plain is None:
    raise ValueError(
      f'guidance within {(low, high)} needs a stage for the other steps'
    )
  other = None if everywhere else plain
  combine = _combination(scale, channels, power)
  spans = tuple(
    (levels, _guided(stage.spans[index][1], combine))
    if inside or other is None
    else (levels, _unguided(other.spans[index][1]))
    for index, inside, levels in parts
  )
  halves = None
  if plain is not None and null is not None:
    halves = sampling.Halves(
      cond=plain,
      null=null,
      spans=tuple(
        (index, combine if inside or other is None else None)
        for index, inside, _ in parts
      ),
    )

  def enter(state, normal):
    def both(shape):
      return double(normal((shape[0] // 2, *shape[1:])))

    x, context = stage.enter([double(s) for s in state], both)
    alone = None if other is None else other.enter(state, normal)[1]
    return jnp.split(x, 2)[0], (context, alone)

  def leave(state, x, x0, context):
    return stage.leave(state, x, x0, context[0])

  return dataclasses.replace(
    stage, spans=spans, enter=enter, leave=leave, halves=halves
  )


def power_cosine(scale: float, part: jax.Array, power: float) -> jax.Array:
  """Returns the guidance scale at a part of the chain's time.

  1 at the noisiest level, `scale` at the cleanest (NVlabs/DiffiT:
  diffit/diffit.py, after arXiv:2303.14389).

  Args:
    scale: at the cleanest level.
    part: t / T in [0, 1].
    power: how late the scale grows.
  """
  return 1.0 + (scale - 1.0) * 0.5 * (
    1.0 - jnp.cos(jnp.pi * (1.0 - part) ** power)
  )


def _combination(
  scale: float, channels: int | None, power: float | None
) -> Callable[..., solvers.Prediction]:
  """Returns (cond, null, level) -> the guided prediction."""

  def combine(cond, null, level):
    s = scale if power is None else power_cosine(scale, level.part, power)

    def guided(cond, null):
      far = null + s * (cond - null)
      if channels is None:
        return far
      return jnp.concatenate(
        [far[..., :channels], cond[..., channels:]], axis=-1
      )

    return solvers.Prediction(
      x0=guided(cond.x0, null.x0),
      eps=guided(cond.eps, null.eps),
      variance=cond.variance,
    )

  return combine


def _guided(
  denoise: Callable[..., Any], combine: Callable[..., solvers.Prediction]
) -> Callable[..., Any]:
  def call(x, level, context, first=True):
    both = denoise(double(x), level, context[0], first)
    cond, null = (
      jax.tree.map(lambda a, i=i: jnp.split(a, 2)[i], both) for i in range(2)
    )
    return combine(cond, null, level)

  return call


def _unguided(denoise: Callable[..., Any]) -> Callable[..., Any]:
  return lambda x, level, context, first=True: denoise(
    x, level, context[1], first
  )


def _cut(
  levels: schedules.Levels, low: float, high: float
) -> list[tuple[bool, schedules.Levels]]:
  """Cuts levels into runs of steps that begin inside or outside."""
  part = np.asarray(levels.part)[:-1]
  inside = (low <= part) & (part <= high)
  edges = [0, *(np.flatnonzero(np.diff(inside)) + 1), len(inside)]
  return [
    (bool(inside[a]), solvers.row(levels, slice(a, b + 1)))
    for a, b in itertools.pairwise(edges)
  ]
