"""Ancestral sampling (arXiv:2006.11239, arXiv:2102.09672)."""

import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion.solvers import base


VARIANCES = ('fixed_small', 'fixed_large', 'learned_range')


@dataclasses.dataclass(frozen=True)
class DDPM(base.Solver):
  """Ancestral sampling (arXiv:2006.11239); a step to a clean level is exact.

  Attributes:
    temperature: factor of the noise.
    clip: see `ancestral`.
    variance: see `ancestral`.
  """

  temperature: float = 1.0
  clip: bool = False
  variance: str = 'fixed_small'

  def __post_init__(self):
    checks.one_of('variance', self.variance, VARIANCES)

  def step(self, carry: base.Carry, at: base.StepInputs) -> base.Carry:
    level, next_level = at.level, at.next_level
    prediction, mean, log = ancestral(
      at.denoise(carry.x, level, True),
      carry.x,
      level,
      next_level,
      self.variance,
      self.clip,
    )
    is_noisy = next_level.sigma > 0
    if prediction.gradient is not None:
      variance = jnp.exp(log)
      if self.variance == 'fixed_small':  # that of the last step is 0
        variance = jnp.where(is_noisy, variance, 0.0)
      mean = mean + variance * prediction.gradient
    std = jnp.where(is_noisy, jnp.exp(0.5 * log), 0.0)
    drawn = self.temperature * at.noise()
    x = mean + (std * drawn if std.ndim > 1 else level.times(std, drawn))
    return base.Carry(x=x, prediction=prediction, mean=mean)


def ancestral(
  prediction: base.Prediction,
  x: jax.Array,
  level: base.Levels,
  next_level: base.Levels,
  variance: str = 'fixed_small',
  clip: bool = False,
) -> tuple[base.Prediction, jax.Array, jax.Array]:
  """Returns p(x at the next level | x), a normal distribution.

  Matches `p_mean_variance` of openai/guided-diffusion:
  guided_diffusion/gaussian_diffusion.py.

  Args:
    prediction: the prediction of x.
    x: (B, H, W, C) the state.
    level: the level of x, broadcast over it.
    next_level: less noisy, broadcast over x.
    variance: 'fixed_small' that of the posterior, 'fixed_large' that of the
      forward step, or 'learned_range', where the network interpolates between
      them (arXiv:2102.09672 eq. 15).
    clip: keep the clean prediction in [-1, 1], for images, not for latents.

  Returns:
    The prediction, clipped if `clip`, the mean and the log variance.
  """
  if clip:
    prediction = prediction.clipped(x, level)
  mean = posterior_mean(prediction.x0, x, level, next_level)
  small, large = level.log_variance, level.log_beta
  if variance == 'fixed_small':
    return prediction, mean, small
  if variance == 'fixed_large':
    # The last step would have that of all noise from a clean image.
    return prediction, mean, jnp.where(next_level.sigma > 0, large, small)
  if prediction.variance is None:
    raise ValueError(
      "variance 'learned_range' needs a network with twice the channels of the"
      f' state, this one predicts {x.shape[-1]}'
    )
  part = (prediction.variance + 1.0) / 2.0
  return prediction, mean, part * large + (1.0 - part) * small


def posterior_mean(
  x0: jax.Array, x: jax.Array, level: base.Levels, next_level: base.Levels
) -> jax.Array:
  """Returns the mean of q(x at the next level | x, x0) (DDPM eq. 7)."""
  beta = jnp.exp(level.log_beta)
  variance = level.sigma**2
  of_x0 = beta * next_level.alpha / variance
  of_x = next_level.sigma**2 * level.kept(next_level) / variance
  return level.times(of_x0, x0) + level.times(of_x, x)
