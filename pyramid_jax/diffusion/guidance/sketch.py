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

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import prediction as prediction_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.solvers import base as solver_lib


Levels = levels_lib.Levels
Prediction = prediction_lib.Prediction

# (prediction with its features, level, initial noise) -> (B,) losses
Loss = Callable[[Prediction, Levels, jax.Array], jax.Array]
# The step that a correction is measured by: without the noise that it drew
# anew, or as it was.
NORM_REFS = ('mean', 'sample')
_TINY = 1e-8  # length of a gradient, over the root of its size: no direction


@dataclasses.dataclass(frozen=True, kw_only=True)
class SketchGuidance:
  """What corrects the first steps of a stage, and by how much.

  Attributes:
    loss: of the activations; may depend on the predictions, too.
    features: names of the activations.
    beta: length of the correction over that of the step, () or (B,).
    stop_fraction: the share of the steps that are corrected, in [0, 1].
    norm_ref: which step lengths are measured by, one of `NORM_REFS`.
  """

  loss: Loss
  features: Sequence[str]
  beta: jax.Array | float
  stop_fraction: float = 0.5
  norm_ref: str = 'mean'

  def __post_init__(self):
    if not 0 <= self.stop_fraction <= 1:
      raise ValueError(f'stop fraction {self.stop_fraction} must lie in [0, 1]')
    if self.norm_ref not in NORM_REFS:
      raise ValueError(f'norm_ref {self.norm_ref!r} is not one of {NORM_REFS}')

  def corrected(
    self,
    gradient: jax.Array,
    before: jax.Array,
    moved: solver_lib.Carry,
    ends: tuple[Levels, Levels],
  ) -> solver_lib.Carry:
    """Returns the carry after a step with its correction.

    Args:
      gradient: (B, H, W, C) of the loss, by the state before the step.
      before: (B, H, W, C) the state before the step.
      moved: the carry after it.
      ends: the levels before and after.
    """
    old, new = (_vp_scale(level) for level in ends)
    after = moved.x
    if self.norm_ref == 'mean' and moved.mean is not None:
      after = moved.mean
    step = after / new - before / old
    x = moved.x - new * correction(gradient, step, self.beta)
    return dataclasses.replace(moved, x=x)


@dataclasses.dataclass(frozen=True)
class _Contexts:
  """What the denoisers of a stage need, beside what does not concern them.

  Attributes:
    whole: the context of the stage itself.
    cond: of the stage with the condition alone.
    null: of the stage with the null condition alone.
    initial: (B, H, W, C) the initial noise.
  """

  whole: Any
  cond: Any
  null: Any
  initial: jax.Array


def sketch_guided(
  stage: sampling.Stage, sketch: SketchGuidance
) -> sampling.Stage:
  """Corrects the first steps of a stage; editing, which shortens it, is first.

  The gradient goes through the call with the condition alone, whose forward
  pass serves the step as well; the null condition is a call of its own that
  keeps nothing for a gradient.

  Args:
    stage: of B images, perhaps with classifier-free guidance, perhaps edited.
    sketch: what corrects the steps.
  """
  left, segments = round(sketch.stop_fraction * stage.steps), []
  for segment in stage.segments:
    taken = min(left, segment.steps)
    left -= taken
    if taken:
      segments.append(_owned(segment.part(0, taken), sketch))
    if taken < segment.steps:
      segments.append(_inner(segment.part(taken, segment.steps)))

  def enter(state, normal):
    drawn: list[jax.Array] = []

    def noted(shape):
      drawn.append(normal(shape))
      return drawn[-1]

    x, whole = stage.enter(state, noted)
    cond = null = None
    for segment in stage.segments:
      if isinstance(segment.denoise, classifier_free.Guided):
        _, cond = segment.denoise.cond.enter(state, normal)
        _, null = segment.denoise.null.enter(state, normal)
    return x, _Contexts(whole, cond, null, drawn[0])

  def leave(state, x, x0, context):
    return stage.leave(state, x, x0, context.whole)

  return sampling.Stage(segments=tuple(segments), enter=enter, leave=leave)


def _inner(segment: sampling.Segment) -> sampling.Segment:
  """Gives the parts of a segment their own context."""

  def denoise(x, level, context, first=True):
    return segment.denoise(x, level, context.whole, first)

  def inner(around: sampling.Around) -> sampling.Around:
    return lambda step, context: around(step, context.whole)

  return dataclasses.replace(
    segment,
    denoise=denoise,
    around=tuple(inner(around) for around in segment.around),
  )


def _owned(
  segment: sampling.Segment, sketch: SketchGuidance
) -> sampling.Segment:
  """Puts the correction around the steps of a segment, innermost of all."""

  def around(step: solver_lib.Step, context: Any) -> solver_lib.Step:
    def corrected(carry, denoise, level, next_level, noise):
      gradients = []

      def asked(x, level, first):
        if not first:
          return denoise(x, level, first)
        prediction, gradient = _with_gradient(
          segment.denoise, sketch, x, level, context
        )
        gradients.append(gradient)
        return prediction

      moved = step(carry, asked, level, next_level, noise)
      ends = level, next_level
      return sketch.corrected(gradients[0], carry.x, moved, ends)

    return corrected

  inner = _inner(segment)
  return dataclasses.replace(inner, around=(around, *inner.around))


def _with_gradient(
  denoise: sampling.Denoiser,
  sketch: SketchGuidance,
  x: jax.Array,
  level: Levels,
  context: _Contexts,
) -> tuple[Prediction, jax.Array]:
  """Returns what a denoiser predicts, and the gradient of the loss by x."""
  cond, of_cond = denoise, context.whole
  guided = isinstance(denoise, classifier_free.Guided)
  if isinstance(denoise, classifier_free.Guided | classifier_free.Unguided):
    cond = denoise.cond.segments[denoise.index].denoise
    of_cond = context.cond if guided else context.whole[1]

  def objective(x):
    found = cond(x, level, of_cond, True, features=sketch.features)
    losses = sketch.loss(found, level, context.initial)
    return losses.sum(), found.replace(features={})

  gradient, prediction = jax.grad(objective, has_aux=True)(x)
  if isinstance(denoise, classifier_free.Guided):
    alone = denoise.null.segments[denoise.index].denoise
    null = alone(x, level, context.null, True)
    prediction = denoise.guidance.combine(prediction, null, level)
  return prediction, gradient


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


def _vp_scale(level: Levels) -> jax.Array:
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
