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

  Returns:
    A stage of B images.

  Raises:
    ValueError: steps outside the interval, but no `plain`.
  """
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
  spans = tuple(
    (levels, _guided(stage.spans[index][1], scale))
    if inside or other is None
    else (levels, _unguided(other.spans[index][1]))
    for index, inside, levels in parts
  )

  def enter(state, normal):
    def both(shape):
      return double(normal((shape[0] // 2, *shape[1:])))

    x, context = stage.enter([double(s) for s in state], both)
    alone = None if other is None else other.enter(state, normal)[1]
    return jnp.split(x, 2)[0], (context, alone)

  def leave(state, x, context):
    return stage.leave(state, x, context[0])

  return dataclasses.replace(stage, spans=spans, enter=enter, leave=leave)


def _guided(denoise: Callable[..., Any], scale: float) -> Callable[..., Any]:
  def call(x, level, context, first=True):
    prediction = denoise(double(x), level, context[0], first)
    cond, null = jnp.split(prediction.eps, 2)
    return solvers.Prediction.from_eps(x, null + scale * (cond - null), level)

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
