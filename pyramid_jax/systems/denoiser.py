"""How a network takes part in sampling: as the denoiser of a stage."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion.guidance import classifier_free


Inputs = condition_lib.Inputs
Levels = levels_lib.Levels
Prediction = levels_lib.Prediction
Shape = tuple[int, int, int, int]
# (x, time) -> the output of a network with its condition
Bound = Callable[[jax.Array, jax.Array], jax.Array]
# (network, x, level, inputs) -> what it predicts of the state
Predict = Callable[[Bound, jax.Array, Levels, Inputs], Prediction]
State = list[jax.Array]


def from_output(parameterization: str) -> Predict:
  """Returns `Denoiser.predict` for an output that is 'eps', 'x0' or 'v'."""

  def predict(network, x, level, inputs):
    del inputs
    value = network(x, level.time)
    return Prediction.of(parameterization, x, value, level)

  return predict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
  """A network with its weights, as a stage of a system calls it."""

  # (variables, x, time, inputs, **kwargs of `module.apply`) -> the output for
  # states (B, h, w, C) at levels (B,), or at (1,), which is embedded once.
  call: Callable[..., Any]
  params: Any  # the parameters of the network
  predict: Predict
  # Compute all that does not depend on the level once per image instead of once
  # per step (the same numbers).
  cached: bool = True
  # (finished scales, (h, w) of the stage) -> further arguments of `call`, by
  # name.
  coarse: Callable[[State, tuple[int, int]], dict[str, Any]] = (
    lambda state, grid: {}
  )
  # (finished scales, noise) -> the state in which the stage begins; None for
  # noise at the first level.
  begin: Callable[[State, jax.Array], jax.Array] | None = None
  # (x, x0) -> the finished scale.
  finish: Callable[[jax.Array, jax.Array], jax.Array] = lambda x, x0: x

  def stage(
    self, levels: Levels, inputs: Inputs, shape: Shape
  ) -> sampling.Stage:
    """Builds the stage of states (B, h, w, C), without guidance."""

    def enter(state, normal):
      noise = normal(shape)
      x = levels.initial_std * noise
      if self.begin is not None:
        x = self.begin(state, noise)
      coarse = self.coarse(state, shape[1:3])
      variables = {'params': self.params}
      if self.cached:
        _, cache = self.call(
          variables, x, jnp.zeros((1,)), inputs, mutable=['cache'], **coarse
        )
        variables |= cache
      return x, (variables, coarse)

    def denoise(x, level, context, first=True, features=()):
      del first
      variables, coarse = context
      found: dict[str, jax.Array] = {}

      def network(x, time):
        t = jnp.ravel(time)
        out = self.call(variables, x, t, inputs, features=features, **coarse)
        if not features:
          return out
        found.update(out[1])
        return out[0]

      prediction = self.predict(network, x, level, inputs)
      return dataclasses.replace(prediction, features=found)

    def leave(state, x, x0, context):
      del context
      return [*state, self.finish(x, x0)]

    segment = sampling.Segment(levels=levels, denoise=denoise)
    return sampling.Stage(segments=(segment,), enter=enter, leave=leave)

  def guided(
    self,
    levels: Levels,
    condition: condition_lib.Condition,
    shape: Shape,
    guidance: classifier_free.Guidance | None = None,
  ) -> sampling.Stage:
    """Builds the stage of states (B, h, w, C), optionally with guidance.

    Guidance takes effect where `condition` has a null condition.
    """
    return classifier_free.guided_stage(
      functools.partial(self.stage, levels),
      shape,
      condition.context,
      condition.null,
      guidance,
    )
