"""What a solver is: (carry, denoise, level, next level, noise) -> carry.

A solver is a frozen dataclass. It knows nothing of where the levels lie
(`timesteps`, `edm_timesteps`, `laplacian_timesteps`): any solver walks any
levels, but for what its docstring says.
"""

from collections.abc import Callable
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import prediction as prediction_lib


Levels = levels_lib.Levels
Prediction = prediction_lib.Prediction

# denoise(x, level, first) -> Prediction; `first` marks a step's first call.
Denoise = Callable[[jax.Array, Levels, bool], Prediction]
# noise() -> standard normal of the state's shape.
Draw = Callable[[], jax.Array]


@flax.struct.dataclass
class Carry:
  """The state of a solver between two steps.

  Attributes:
    x: (B, H, W, C) the state at the current level.
    prediction: of the step's first network call.
    history: what a multistep solver remembers.
    mean: x without the noise that this step drew, None if it drew none; it
      lives until the step is over.
  """

  x: jax.Array
  prediction: Prediction
  history: tuple[jax.Array, ...] = ()
  mean: jax.Array | None = None


# (carry, denoise, level, next level, noise) -> carry at the next level
Step = Callable[[Carry, Denoise, Levels, Levels, Draw], Carry]


class Solver(Protocol):
  """See the module docstring."""

  @property
  def first_step(self) -> Step | None:
    """A first step that differs from the others; None if none does."""

  def start(self, x: jax.Array, levels: Levels) -> Carry:
    """Returns the carry before the first step from x."""

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    """Goes from `level` to `next_level`."""


class OneStep:
  """What solvers share whose steps are all alike."""

  @property
  def first_step(self) -> Step | None:
    return None

  def start(self, x: jax.Array, levels: Levels) -> Carry:
    del levels
    return Carry(x=x, prediction=nothing(x))


def nothing(x: jax.Array) -> Prediction:
  """Returns the prediction before any, of the right shape."""
  return Prediction(x0=jnp.zeros_like(x), eps=jnp.zeros_like(x))


def euler(prediction: Prediction, next_level: Levels) -> jax.Array:
  """Returns the state at `next_level` by a deterministic DDIM step."""
  return next_level.noised(prediction.x0, prediction.eps)
