"""What a denoiser returns of a noisy state."""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import levels as levels_lib


Levels = levels_lib.Levels


@flax.struct.dataclass
class Prediction:
  """A predicted clean state and the noise that it leaves, (B, H, W, C) each.

  Attributes:
    x0: the clean state.
    eps: the noise.
    variance: the raw output of a network that also learned the variance of
      ancestral steps, see `solvers.ddpm`; other solvers ignore it.
    features: activations of the network by name, where they were asked for.
  """

  x0: jax.Array
  eps: jax.Array
  variance: jax.Array | None = None
  features: Mapping[str, jax.Array] = flax.struct.field(default_factory=dict)

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
