"""What a solver is: (carry, denoise, level, next level, noise) -> carry.

A solver is a frozen dataclass with `levels(chain, steps)`, the noise levels it
walks, `init(...)`, which may already take first steps that differ from the
others, and `step(...)`, which is scanned.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import Protocol
from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import schedules


Levels = schedules.Levels
VARIANCES = ('fixed_small', 'fixed_large', 'learned_range')
T = TypeVar('T')


@flax.struct.dataclass
class Prediction:
  """What a denoiser returns of a noisy state, (B, H, W, C) each.

  Attributes:
    x0: the clean state.
    eps: the noise.
    variance: the raw output of a network that also learned the variance of
      ancestral steps, see `ancestral`; other solvers ignore it.
    taps: activations of the network by name, where they were asked for.
    gradient: of a loss with respect to the noisy state, for `Stage.after`;
      solvers never see it.
  """

  x0: jax.Array
  eps: jax.Array
  variance: jax.Array | None = None
  taps: Mapping[str, jax.Array] = flax.struct.field(default_factory=dict)
  gradient: jax.Array | None = None

  @classmethod
  def from_eps(cls, x: jax.Array, eps: jax.Array, level: Levels):
    """Completes a predicted noise by the clean state it implies."""
    return cls(x0=(x - level.sigma * eps) / level.alpha, eps=eps)

  @classmethod
  def from_x0(cls, x: jax.Array, x0: jax.Array, level: Levels):
    """Completes a predicted clean state by its noise, 0 at a clean level."""
    inverse = jnp.where(
      level.sigma > 0, 1.0 / jnp.where(level.sigma > 0, level.sigma, 1.0), 0.0
    )
    return cls(x0=x0, eps=(x - level.times(level.alpha, x0)) * inverse)

  @classmethod
  def from_v(cls, x: jax.Array, v: jax.Array, level: Levels):
    """Takes v = alpha * eps - sigma * x0 apart (arXiv:2202.00512)."""
    return cls(
      x0=level.alpha * x - level.sigma * v,
      eps=level.sigma * x + level.alpha * v,
    )

  @classmethod
  def of(
    cls, parameterization: str, x: jax.Array, value: jax.Array, level: Levels
  ):
    """Completes what a network predicts of x.

    Args:
      parameterization: what `value` is: 'eps', 'x0' or 'v'.
      x: (B, H, W, C) the noisy state.
      value: (B, H, W, C) the network's output, or (B, H, W, 2C) with the raw
        variance of ancestral steps in the second half.
      level: of x.

    Raises:
      ValueError: unknown parameterization.
    """
    gaussian.check_parameterization(parameterization)
    build = {'eps': cls.from_eps, 'x0': cls.from_x0, 'v': cls.from_v}
    variance = None
    if value.shape[-1] == 2 * x.shape[-1]:
      value, variance = jnp.split(value, 2, axis=-1)
    prediction = build[parameterization](x, value, level)
    return prediction.replace(variance=variance)


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


# denoise(x, level, first) -> Prediction; `first` marks a step's first call.
Denoise = Callable[[jax.Array, Levels, bool], Prediction]
# noise() -> standard normal of the state's shape.
Draw = Callable[[], jax.Array]


def euler(prediction: Prediction, next_level: Levels) -> jax.Array:
  """Returns the state at `next_level` by a deterministic DDIM step."""
  return next_level.noised(prediction.x0, prediction.eps)


class Solver(Protocol):
  """See the module docstring; the levels are of the solver's own class."""

  def levels(self, chain: Any, steps: int) -> Levels:
    """Returns the levels of a sweep of `steps` steps.

    Args:
      chain: what the network was trained on: a `schedules.Chain`, or a
        preconditioning for the solvers of `continuous`.
      steps: S.
    """

  def init(
    self, x: jax.Array, denoise: Denoise, levels: Any
  ) -> tuple[Carry, int]:
    """Returns the carry and the number of steps already taken (0 or 1)."""

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Any,
    next_level: Any,
    noise: Draw,
  ) -> Carry:
    """Goes from `level` to `next_level`."""


class Spaced:
  """What solvers share that walk levels of a chain, spaced by name.

  A class with an attribute `spacing`, see `schedules.spaced_levels`.
  """

  spacing: str

  def levels(self, chain: schedules.Chain, steps: int) -> Levels:
    return schedules.spaced_levels(chain, steps, self.spacing)


class Scanned:
  """What solvers share that scan their first step as all others."""

  def history(self, x: jax.Array, levels: Any) -> tuple[jax.Array, ...]:
    """Returns what is remembered before the first step from x."""
    del x, levels
    return ()

  def init(
    self, x: jax.Array, denoise: Denoise, levels: Any
  ) -> tuple[Carry, int]:
    del denoise
    nothing = Prediction(x0=jnp.zeros_like(x), eps=jnp.zeros_like(x))
    return Carry(x=x, prediction=nothing, history=self.history(x, levels)), 0


def ancestral(
  prediction: Prediction,
  x: jax.Array,
  level: Levels,
  next_level: Levels,
  variance: str = 'fixed_small',
  clip: bool = False,
) -> tuple[Prediction, jax.Array, jax.Array]:
  """Returns p(x at the next level | x), a normal distribution.

  Matches `p_mean_variance` of openai/guided-diffusion:
  guided_diffusion/gaussian_diffusion.py.

  Args:
    prediction: of x.
    x: (B, H, W, C) the state.
    level: of x, as is `next_level` scalars or arrays that broadcast over x.
    next_level: less noisy.
    variance: 'fixed_small' of the posterior, 'fixed_large' of the forward
      step, or 'learned_range', between them as the network says
      (arXiv:2102.09672 eq. 15).
    clip: keep the clean prediction in [-1, 1], for images, not for latents.

  Returns:
    The prediction, perhaps clipped, the mean and the log variance.

  Raises:
    ValueError: a network without a variance that should have one.
  """
  if clip:
    x0 = jnp.clip(prediction.x0, -1.0, 1.0)
    clipped = Prediction.from_x0(x, x0, level)
    prediction = clipped.replace(variance=prediction.variance)
  mean = posterior_mean(prediction.x0, x, level, next_level)
  if variance == 'fixed_small':
    return prediction, mean, level.log_variance
  if variance == 'fixed_large':
    # The last step would have that of all noise from a clean image.
    log = jnp.where(next_level.sigma > 0, level.log_beta, level.log_variance)
    return prediction, mean, log
  if prediction.variance is None:
    raise ValueError(
      "variance 'learned_range' needs a network with twice the channels of the"
      f' state, this one predicts {x.shape[-1]}'
    )
  part = (prediction.variance + 1.0) / 2.0
  log = part * level.log_beta + (1.0 - part) * level.log_variance
  return prediction, mean, log


def posterior_mean(
  x0: jax.Array, x: jax.Array, level: Levels, next_level: Levels
) -> jax.Array:
  """Returns the mean of q(x at the next level | x, x0) (DDPM eq. 7)."""
  beta = jnp.exp(level.log_beta)
  variance = level.sigma**2
  return (beta * next_level.alpha / variance) * x0 + (
    next_level.sigma**2 * jnp.sqrt(1.0 - beta) / variance
  ) * x


def check_variance(name: str) -> None:
  """Refuses a variance that ancestral steps do not have.

  Raises:
    ValueError: unknown name.
  """
  if name not in VARIANCES:
    raise ValueError(f'variance {name!r} is not one of {VARIANCES}')


def row(levels: T, index: int | slice) -> T:
  """Returns one row (scalars) of levels or of a like tree, or a slice."""
  return jax.tree.map(lambda a: a[index], levels)


def is_end(level: Levels, next_level: Levels) -> jax.Array:
  """Says whether a step is the last: no network is trained for its end."""
  return level.time == next_level.time
