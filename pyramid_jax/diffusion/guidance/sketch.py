"""Guidance by the gradient of a loss on a network's activations.

Sketch-guided diffusion (arXiv:2211.13752): a loss on the activations of the
conditional call is differentiated by the noisy state, and every step is
followed by a correction along that gradient, `beta` times as long as the step.
Both lengths are those of a variance-preserving state.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.solvers import base as solver_lib


Levels = levels_lib.Levels
Prediction = levels_lib.Prediction

# (prediction with its features, level, initial noise) -> (B,) losses
Loss = Callable[[Prediction, Levels, jax.Array], jax.Array]
# The step that a correction is measured by: without the noise that it drew, or
# as it was.
NORM_REFS = ('mean', 'sample')
# Contexts: of a stage, of its halves with the condition and the null condition
# alone, if it is guided, and the initial noise.
_Contexts = tuple[Any, Any, Any, jax.Array]
_TINY = 1e-8  # length of a gradient, over the root of its size: no direction


@dataclasses.dataclass(frozen=True, kw_only=True)
class SketchGuidance:
  """The corrections of the first steps of a stage.

  Attributes:
    loss: the loss of the activations; may depend on the predictions, too.
    features: names of the activations.
    beta: length of the correction over that of the step, () or (B,).
    stop_fraction: the share of the steps that are corrected, in [0, 1].
    norm_ref: one of `NORM_REFS`.
  """

  loss: Loss
  features: Sequence[str]
  beta: jax.Array | float
  stop_fraction: float = 0.5
  norm_ref: str = 'mean'

  def __post_init__(self):
    if not 0 <= self.stop_fraction <= 1:
      raise ValueError(f'stop fraction {self.stop_fraction} must lie in [0, 1]')
    checks.one_of('norm_ref', self.norm_ref, NORM_REFS)


def sketch_guided(
  stage: sampling.Stage, sketch: SketchGuidance
) -> sampling.Stage:
  """Corrects the first steps of a stage; editing, which shortens it, is first.

  The gradient goes through the call with the condition alone, whose forward
  pass serves the step as well; the null condition is a call of its own that
  stores nothing for a gradient.
  """
  count = round(sketch.stop_fraction * stage.steps)
  corrected = [_corrected(s, sketch) for s in stage.part(0, count)]
  others = [_inner(s) for s in stage.part(count, stage.steps)]

  def enter(state, normal):
    drawn: list[jax.Array] = []

    def noted(shape):
      drawn.append(normal(shape))
      return drawn[-1]

    x, whole = stage.enter(state, noted)
    cond = null = None
    for segment in stage.segments:
      denoise = segment.denoise
      if isinstance(denoise, classifier_free.Guided) and denoise.guidance:
        _, cond = denoise.cond.enter(state, normal)
        _, null = denoise.null.enter(state, normal)
    return x, (whole, cond, null, drawn[0])

  def leave(state, x, x0, context):
    return stage.leave(state, x, x0, context[0])

  segments = (*corrected, *others)
  return sampling.Stage(segments=segments, enter=enter, leave=leave)


def _inner(segment: sampling.Segment) -> sampling.Segment:
  """Gives the functions of a segment the context of its stage."""

  def inner(around: sampling.Around) -> sampling.Around:
    return lambda step, context: around(step, context[0])

  return dataclasses.replace(
    segment,
    denoise=lambda x, level, context, first=True: segment.denoise(
      x, level, context[0], first
    ),
    around=tuple(inner(around) for around in segment.around),
  )


def _corrected(
  segment: sampling.Segment, sketch: SketchGuidance
) -> sampling.Segment:
  """Puts the correction around the steps of a segment, innermost of all."""

  def around(step: solver_lib.Step, context: Any) -> solver_lib.Step:
    def corrected(carry, at):
      gradients = []

      def asked(x, level, first):
        if not first:
          return at.denoise(x, level, first)
        prediction, gradient = _with_gradient(
          segment.denoise, sketch, x, level, context
        )
        gradients.append(gradient)
        return prediction

      moved = step(carry, dataclasses.replace(at, denoise=asked))
      after = moved.x
      if sketch.norm_ref == 'mean' and moved.mean is not None:
        after = moved.mean
      scale = _vp_scale(at.next_level)
      step_taken = after / scale - carry.x / _vp_scale(at.level)
      way = correction(gradients[0], step_taken, sketch.beta)
      return dataclasses.replace(moved, x=moved.x - scale * way)

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
  whole, of_cond, of_null, initial = context
  cond, null, guidance = denoise, denoise, None
  if isinstance(denoise, classifier_free.Guided):
    cond, null = (
      half.segments[denoise.index].denoise
      for half in (denoise.cond, denoise.null)
    )
    guidance = denoise.guidance
    of_cond = of_cond if guidance else whole[1]
  else:
    of_cond = whole

  def objective(x):
    found = cond(x, level, of_cond, True, features=sketch.features)
    losses = sketch.loss(found, level, initial)
    return losses.sum(), found.replace(features={})

  gradient, prediction = jax.grad(objective, has_aux=True)(x)
  if guidance:
    unguided = null(x, level, of_null, True)
    prediction = guidance.combine(prediction, unguided, level)
  return prediction, gradient


def correction(
  gradient: jax.Array, step: jax.Array, beta: jax.Array | float
) -> jax.Array:
  """Returns beta |step| along the gradient (B, ...), to be subtracted.

  It is 0 where the gradient is so short that its direction is noise.
  """
  size = _length(gradient)
  has_direction = size >= _TINY * gradient[0].size ** 0.5
  beta = gaussian.per_example(jnp.asarray(beta), gradient)
  factor = beta * _length(step) / jnp.where(has_direction, size, 1.0)
  return jnp.where(has_direction, factor, 0.0) * gradient


def _vp_scale(level: Levels) -> jax.Array:
  """Returns the scale of a state over that of a variance-preserving one.

  1 for the chains of the paper. Where the image keeps its scale while noise
  grows (EDM, LaDM), the first steps would be measured as long as the noise.
  """
  signal = jnp.max(level.alpha)  # the band that does not fade
  return jnp.sqrt(jnp.square(signal) + jnp.square(level.sigma))


def _length(x: jax.Array) -> jax.Array:
  axes = tuple(range(1, x.ndim))
  return jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))
