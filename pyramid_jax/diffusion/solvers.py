"""One step of a sampler: (carry, denoise, level, next level, noise) -> carry.

A solver is a frozen dataclass with `levels(chain, steps)`, the noise levels it
walks, `init(...)`, which may already take first steps that differ from the
others, and `step(...)`, which is scanned.
"""

from collections.abc import Callable
import dataclasses
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import schedules


Levels = schedules.Levels


@flax.struct.dataclass
class Prediction:
  """What a denoiser returns: the clean state and the noise, (B, H, W, C)."""

  x0: jax.Array
  eps: jax.Array

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
    return cls(x0=x0, eps=(x - level.alpha * x0) * inverse)

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
      value: (B, H, W, C) the network's output.
      level: of x.

    Raises:
      ValueError: unknown parameterization.
    """
    gaussian.check_parameterization(parameterization)
    build = {'eps': cls.from_eps, 'x0': cls.from_x0, 'v': cls.from_v}
    return build[parameterization](x, value, level)


@flax.struct.dataclass
class Carry:
  """The state of a solver between two steps.

  Attributes:
    x: (B, H, W, C) the state at the current level.
    prediction: of the step's first network call.
    history: what a multistep solver remembers.
  """

  x: jax.Array
  prediction: Prediction
  history: tuple[jax.Array, ...] = ()


# denoise(x, level, first) -> Prediction; `first` marks a step's first call.
Denoise = Callable[[jax.Array, Levels, bool], Prediction]
# noise() -> standard normal of the state's shape.
Draw = Callable[[], jax.Array]


class Solver(Protocol):
  """See the module docstring."""

  def levels(self, chain: schedules.Chain, steps: int) -> Levels:
    """Returns the levels of a sweep of `steps` steps."""

  def init(
    self, x: jax.Array, denoise: Denoise, levels: Levels
  ) -> tuple[Carry, int]:
    """Returns the carry and the number of steps already taken (0 or 1)."""

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    """Goes from `level` to `next_level`."""


def row(levels: Levels, index: int | slice) -> Levels:
  """Returns one row (scalars) of the levels, or a slice of rows."""
  return jax.tree.map(lambda a: a[index], levels)


def _empty(x: jax.Array) -> Prediction:
  return Prediction(x0=jnp.zeros_like(x), eps=jnp.zeros_like(x))


@dataclasses.dataclass(frozen=True)
class DDIM:
  """DDIM (arXiv:2010.02502 eq. 12), official spacing and end level.

  Matches CompVis/latent-diffusion: ldm/models/diffusion/ddim.py; the sample
  keeps the noise of the first level of the chain.

  Attributes:
    eta: 0 deterministic, 1 as noisy as DDPM.
  """

  eta: float = 0.0

  def levels(self, chain: schedules.Chain, steps: int) -> Levels:
    times = schedules.uniform_timesteps(chain.length, steps)
    return schedules.levels(chain, times, chain.alphas_bar[0])

  def init(
    self, x: jax.Array, denoise: Denoise, levels: Levels
  ) -> tuple[Carry, int]:
    del denoise, levels
    return Carry(x=x, prediction=_empty(x)), 0

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    prediction = denoise(carry.x, level, True)
    x = ddim_update(prediction, level, next_level, self.eta, noise)
    return Carry(x=x, prediction=prediction)


def ddim_update(
  prediction: Prediction,
  level: Levels,
  next_level: Levels,
  eta: float,
  noise: Draw,
) -> jax.Array:
  """Returns the state at `next_level` (arXiv:2010.02502 eq. 12 and 16)."""
  if eta == 0:
    return _euler(prediction, next_level)
  ratio = jnp.square(level.alpha / next_level.alpha)
  std = eta * next_level.sigma / level.sigma * jnp.sqrt(1.0 - ratio)
  along = jnp.sqrt(jnp.maximum(next_level.sigma**2 - std**2, 0.0))
  x = next_level.alpha * prediction.x0 + along * prediction.eps
  return x + std * noise()


def _euler(prediction: Prediction, next_level: Levels) -> jax.Array:
  """The deterministic DDIM update."""
  return next_level.alpha * prediction.x0 + next_level.sigma * prediction.eps


@dataclasses.dataclass(frozen=True)
class PLMS:
  """Pseudo linear multistep (arXiv:2202.09778), fourth order.

  Matches CompVis/latent-diffusion: ldm/models/diffusion/plms.py: the first
  step is an improved Euler step with a second network call; the history is
  three network outputs.
  """

  def levels(self, chain: schedules.Chain, steps: int) -> Levels:
    return DDIM().levels(chain, steps)

  def init(
    self, x: jax.Array, denoise: Denoise, levels: Levels
  ) -> tuple[Carry, int]:
    level, next_level = row(levels, 0), row(levels, 1)
    now = denoise(x, level, True)
    trial = _euler(now, next_level)
    ahead = denoise(trial, next_level, False)
    eps = (now.eps + ahead.eps) / 2
    past = jnp.zeros((3, *x.shape), x.dtype).at[0].set(now.eps)
    prediction = Prediction.from_eps(x, eps, level)
    x = _euler(prediction, next_level)
    return Carry(x, prediction, (jnp.ones((), jnp.int32), past)), 1

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    del noise
    now = denoise(carry.x, level, True)
    count, past = carry.history
    eps = _multistep(now.eps, past, count)
    prediction = Prediction.from_eps(carry.x, eps, level)
    x = _euler(prediction, next_level)
    past = jnp.concatenate([now.eps[None], past[:2]])
    return Carry(x, prediction, (count + 1, past))


def _multistep(eps: jax.Array, past: jax.Array, count: jax.Array) -> jax.Array:
  """Combines the new output with `past` (3, ...), newest first."""
  table = np.array(
    [
      [3 / 2, -1 / 2, 0, 0],
      [23 / 12, -16 / 12, 5 / 12, 0],
      [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ],
    np.float32,
  )
  row = jnp.asarray(table)[jnp.clip(count - 1, 0, 2)]
  return row[0] * eps + jnp.tensordot(row[1:], past, axes=1)


@dataclasses.dataclass(frozen=True)
class DDPM:
  """Ancestral sampling with the fixed small variance (arXiv:2006.11239).

  All T levels when `steps` is T, else an even subset with the posterior of
  the shortened chain. Ends clean; the last step adds no noise.
  """

  def levels(self, chain: schedules.Chain, steps: int) -> Levels:
    times = schedules.spread_timesteps(chain.length, steps)
    return schedules.levels(chain, times, 1.0)

  def init(
    self, x: jax.Array, denoise: Denoise, levels: Levels
  ) -> tuple[Carry, int]:
    del denoise, levels
    return Carry(x=x, prediction=_empty(x)), 0

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    prediction = denoise(carry.x, level, True)
    beta = jnp.exp(level.log_beta)
    variance = level.sigma**2
    mean = (beta * next_level.alpha / variance) * prediction.x0 + (
      next_level.sigma**2 * jnp.sqrt(1.0 - beta) / variance
    ) * carry.x
    std = jnp.where(
      next_level.sigma > 0, jnp.exp(0.5 * level.log_variance), 0.0
    )
    return Carry(x=mean + std * noise(), prediction=prediction)


SOLVERS = ('ddim', 'plms', 'ddpm')


def create(name: str, eta: float = 0.0) -> Solver:
  """Returns a solver by name.

  Raises:
    ValueError: unknown name, or eta where the solver has none.
  """
  if name == 'ddim':
    return DDIM(eta=eta)
  if name not in SOLVERS:
    raise ValueError(f'sample.solver {name!r} is not one of {SOLVERS}')
  if name == 'plms' and eta != 0:
    raise ValueError(f'sample.eta is {eta}, but PLMS needs eta = 0')
  return PLMS() if name == 'plms' else DDPM()
