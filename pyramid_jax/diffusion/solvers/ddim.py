"""DDIM (arXiv:2010.02502)."""

import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.diffusion.solvers import base


@dataclasses.dataclass(frozen=True)
class DDIM(base.OneStep):
  """DDIM (arXiv:2010.02502 eq. 12).

  Matches CompVis/latent-diffusion: ldm/models/diffusion/ddim.py.

  Attributes:
    eta: 0 deterministic, 1 as noisy as DDPM.
    temperature: factor of the noise.
  """

  eta: float = 0.0
  temperature: float = 1.0

  def step(
    self,
    carry: base.Carry,
    denoise: base.Denoise,
    level: base.Levels,
    next_level: base.Levels,
    noise: base.Draw,
  ) -> base.Carry:
    prediction = denoise(carry.x, level, True)
    if self.eta == 0:
      x = base.euler(prediction, next_level)
      return base.Carry(x=x, prediction=prediction)
    std = self.eta * level.renewed(next_level)
    mean = _without_noise(prediction, next_level, std)
    x = mean + next_level.times(std, self.temperature * noise())
    return base.Carry(x=x, prediction=prediction, mean=mean)


def _without_noise(
  prediction: base.Prediction, next_level: base.Levels, std: jax.Array
) -> jax.Array:
  """Returns the mean of the next state (arXiv:2010.02502 eq. 12 and 16)."""
  along = jnp.sqrt(jnp.maximum(next_level.sigma**2 - std**2, 0.0))
  x = next_level.times(next_level.alpha, prediction.x0)
  return x + next_level.times(along, prediction.eps)
