"""What a solver is: (carry, inputs of a step) -> carry.

A solver is a frozen dataclass. It does not depend on where the levels lie
(`timesteps`, `edm_timesteps`, `laplacian_timesteps`): any solver takes any
levels, except where its docstring says otherwise.
"""

from collections.abc import Callable
import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import levels as levels_lib


Levels = levels_lib.Levels
Prediction = levels_lib.Prediction

# denoise(x, level, first) -> Prediction; `first` marks a step's first call.
Denoise = Callable[[jax.Array, Levels, bool], Prediction]
# noise() -> standard normal of the state's shape.
Draw = Callable[[], jax.Array]


@flax.struct.dataclass
class Carry:
  """The state of a solver between two steps.

  Attributes:
    x: (B, H, W, C) the state at the current level.
    prediction: the prediction of the step's first network call.
    history: what a multistep solver remembers.
    mean: x without the noise that this step drew, None if it drew none; not
      kept from step to step.
  """

  x: jax.Array
  prediction: Prediction
  history: tuple[jax.Array, ...] = ()
  mean: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class StepInputs:
  """The inputs of a step in addition to the carry.

  Attributes:
    denoise: the denoiser.
    level: the level at which the step begins.
    next_level: the level at which it ends.
    noise: the noise that it may add.
  """

  denoise: Denoise
  level: Levels
  next_level: Levels
  noise: Draw


# (carry, inputs) -> carry at the next level
Step = Callable[[Carry, StepInputs], Carry]


class Solver:
  """The base of all solvers; see the module docstring."""

  @property
  def first_step(self) -> Step | None:
    """A first step that differs from the others; None if none does."""
    return None

  def start(self, x: jax.Array, levels: Levels) -> Carry:
    """Returns the carry before the first step from x."""
    del levels
    return Carry(x=x, prediction=nothing(x))

  def step(self, carry: Carry, at: StepInputs) -> Carry:
    """Goes from `at.level` to `at.next_level`."""
    raise NotImplementedError


def nothing(x: jax.Array) -> Prediction:
  """Returns the prediction before any, of the right shape."""
  return Prediction(x0=jnp.zeros_like(x), eps=jnp.zeros_like(x))


def euler(prediction: Prediction, next_level: Levels) -> jax.Array:
  """Returns the state at `next_level` by a deterministic DDIM step."""
  return next_level.noised(prediction.x0, prediction.eps)
