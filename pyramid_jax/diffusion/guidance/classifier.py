"""Guidance by the gradient of a classifier of noisy states (arXiv:2105.05233).

The gradient of log p(y | x) by the state x moves the mean of an ancestral step
(the paper's algorithm 1), or is added to the predicted score (algorithm 2), as
`condition_mean` and `condition_score` do in openai/guided-diffusion:
guided_diffusion/gaussian_diffusion.py.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion.solvers import base as solver_lib


Levels = levels_lib.Levels
Prediction = levels_lib.Prediction

# (state (B, H, W, C), level) -> (B,) log p(y | x) of the wanted classes
LogProbability = Callable[[jax.Array, Levels], jax.Array]
FORMS = ('mean', 'score')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierGuidance:
  """What guides a stage.

  Attributes:
    log_probability: of the wanted classes.
    scale: the factor of its gradient, (); 1 samples p(x | y) where the
      classifier is exact.
    form: 'mean' moves the mean of the step by its variance times the gradient,
      which ancestral sampling alone does, 'score' corrects the prediction.
  """

  log_probability: LogProbability
  scale: jax.Array | float
  form: str

  def __post_init__(self):
    checks.one_of('form of guidance', self.form, FORMS)

  def of(self, prediction: Prediction, x: jax.Array, level: Levels):
    """Returns the guided prediction of the state x at a level."""

    def total(x):
      return self.log_probability(x, level).sum()

    gradient = self.scale * jax.grad(total)(x)
    if self.form == 'mean':
      return dataclasses.replace(prediction, gradient=gradient)
    return corrected(prediction, x, level, gradient)


def corrected(
  prediction: Prediction, x: jax.Array, level: Levels, gradient: jax.Array
) -> Prediction:
  """Returns the prediction whose score has a gradient of x in addition."""
  eps = prediction.eps - level.sigma * gradient
  guided = Prediction.from_eps(x, eps, level)
  return dataclasses.replace(prediction, x0=guided.x0, eps=guided.eps)


def form_of(solver: str) -> str:
  """Returns the form of guidance that a solver, by name, takes."""
  return 'mean' if solver == 'ddpm' else 'score'


def classifier_guided(
  stage: sampling.Stage, guidance: ClassifierGuidance
) -> sampling.Stage:
  """Guides every call of the denoiser of a stage without bands."""

  def guided(denoise, x, level, first):
    return guidance.of(denoise(x, level, first), x, level)

  return with_predictions(stage, guided)


def with_predictions(
  stage: sampling.Stage, changed: Callable[..., Prediction]
) -> sampling.Stage:
  """Returns a stage whose predictions are others.

  Args:
    stage: any stage.
    changed: (denoise, x, level, first) -> prediction, where `denoise` is that
      of the stage and the others are its arguments.
  """

  def around(step: solver_lib.Step, context: Any) -> solver_lib.Step:
    del context

    def guided(carry, at):
      denoise = functools.partial(changed, at.denoise)
      return step(carry, dataclasses.replace(at, denoise=denoise))

    return guided

  segments = tuple(
    dataclasses.replace(segment, around=(around, *segment.around))
    for segment in stage.segments
  )
  return dataclasses.replace(stage, segments=segments)
