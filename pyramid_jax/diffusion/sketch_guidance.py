"""Guidance by the gradient of a loss on a network's activations.

Sketch-guided diffusion (arXiv:2211.13752): a loss on the activations of the
conditional call is differentiated by the noisy state, and every step is
followed by a correction along that gradient, `beta` times as long as the step,
both as they are in a variance-preserving chain.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers


# (prediction with its taps, level, initial noise) -> (B,) losses
Loss = Callable[[solvers.Prediction, schedules.Levels, jax.Array], jax.Array]
# The step that a correction is measured by: without the noise that it drew
# anew, or as it was.
NORM_REFS = ('mean', 'sample')
_TINY = 1e-8  # length of a gradient, over the root of its size: no direction


def steered(
  stage: sampling.Stage,
  loss: Loss,
  taps: Sequence[str],
  *,
  beta: jax.Array | float,
  stop_fraction: float = 0.5,
  norm_ref: str = 'mean',
) -> sampling.Stage:
  """Steers the first steps of a stage.

  The gradient goes through the call with the condition alone, whose forward
  pass serves the step as well; the null condition is a call of its own that
  keeps nothing for a gradient. Editing, which shortens a stage, comes later.

  Args:
    stage: of B images, perhaps with classifier-free guidance.
    loss: of the activations; may depend on the predictions, too.
    taps: names of the activations.
    beta: length of the correction over that of the step, () or (B,).
    stop_fraction: the share of the steps that are steered, in [0, 1].
    norm_ref: which step, one of `NORM_REFS`.

  Raises:
    ValueError: a share out of range, or an unknown norm.
  """
  if not 0 <= stop_fraction <= 1:
    raise ValueError(f'stop fraction {stop_fraction} must lie in [0, 1]')
  if norm_ref not in NORM_REFS:
    raise ValueError(f'norm_ref {norm_ref!r} is not one of {NORM_REFS}')
  halves = stage.halves or sampling.Halves(
    cond=stage,
    null=stage,
    spans=tuple((index, None) for index in range(len(stage.spans))),
  )

  def enter(state, normal):
    x, whole = stage.enter(state, normal)
    initial = x / stage.spans[0][0].initial_std
    if stage.halves is None:
      return x, (whole, whole, None, initial)
    _, cond = halves.cond.enter(state, normal)
    _, null = halves.null.enter(state, normal)
    return x, (whole, cond, null, initial)

  def leave(state, x, x0, context):
    return stage.leave(state, x, x0, context[0])

  def after(x_next, x, prediction, mean, ends):
    if prediction.gradient is None:
      return x_next
    old, new = (_scale(level) for level in ends)
    moved = mean if norm_ref == 'mean' else x_next
    step = moved / new - x / old
    return x_next - new * correction(prediction.gradient, step, beta)

  return dataclasses.replace(
    stage,
    spans=_spans(stage, halves, loss, taps, stop_fraction),
    enter=enter,
    leave=leave,
    after=after,
    halves=None,
  )


def _spans(
  stage: sampling.Stage,
  halves: sampling.Halves,
  loss: Loss,
  taps: Sequence[str],
  stop_fraction: float,
) -> tuple[tuple[schedules.Levels, Callable[..., Any]], ...]:
  """Returns the spans of a stage, cut where steering stops."""
  total = sum(_steps(levels) for levels, _ in stage.spans)
  left, spans = round(stop_fraction * total), []
  for (levels, denoise), half in zip(stage.spans, halves.spans, strict=True):
    count = min(left, _steps(levels))
    left -= count
    if count:
      head = solvers.row(levels, slice(0, count + 1))
      spans.append((head, _steered(denoise, halves, half, loss, taps)))
    if count < _steps(levels):
      spans.append((solvers.row(levels, slice(count, None)), _plain(denoise)))
  return tuple(spans)


def correction(
  gradient: jax.Array, step: jax.Array, beta: jax.Array | float
) -> jax.Array:
  """Returns what is subtracted: beta |step| along the gradient, per image.

  Nothing where the gradient is so short that its direction is noise.

  Args:
    gradient: (B, H, W, C).
    step: (B, H, W, C), the way that a step went.
    beta: () or (B,).
  """
  beta = jnp.asarray(beta)
  beta = beta.reshape(beta.shape + (1,) * (gradient.ndim - beta.ndim))
  size = _length(gradient)
  has_direction = size >= _TINY * gradient[0].size ** 0.5
  factor = beta * _length(step) / jnp.where(has_direction, size, 1.0)
  return jnp.where(has_direction, factor, 0.0) * gradient


def _scale(level: schedules.Levels) -> jax.Array:
  """Returns what makes a state one of a variance-preserving chain.

  1 for the chains of the paper. States whose image keeps its scale while noise
  grows (EDM, LaDM) get shorter by half where noise halves: measured so, their
  first steps would be as long as all of the noise.
  """
  signal = jnp.max(level.alpha)  # of bands, that which does not fade
  return jnp.sqrt(jnp.square(signal) + jnp.square(level.sigma))


def _length(x: jax.Array) -> jax.Array:
  axes = tuple(range(1, x.ndim))
  return jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))


def _steps(levels: schedules.Levels) -> int:
  return levels.time.shape[0] - 1


def _plain(denoise: Callable[..., Any]) -> Callable[..., Any]:
  return lambda x, level, context, first=True: denoise(
    x, level, context[0], first
  )


def _steered(
  denoise: Callable[..., Any],
  halves: sampling.Halves,
  half: tuple[int, Callable[..., Any] | None],
  loss: Loss,
  taps: Sequence[str],
) -> Callable[..., Any]:
  """Returns the denoiser of a span whose first calls have a gradient."""
  index, combine = half
  cond, null = (part.spans[index][1] for part in (halves.cond, halves.null))

  def call(x, level, context, first=True):
    whole, of_cond, of_null, initial = context
    if not first:
      return denoise(x, level, whole, first)

    def objective(x):
      prediction = cond(x, level, of_cond, first, taps=taps)
      losses = loss(prediction, level, initial)
      return losses.sum(), prediction.replace(taps={})

    gradient, prediction = jax.grad(objective, has_aux=True)(x)
    if combine is not None:
      other = null(x, level, of_null, first)
      prediction = combine(prediction, other, level)
    return prediction.replace(gradient=gradient)

  return call
