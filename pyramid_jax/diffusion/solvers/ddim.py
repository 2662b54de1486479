"""DDIM (arXiv:2010.02502)."""

import dataclasses

import jax.numpy as jnp

from pyramid_jax.diffusion.solvers import base


@dataclasses.dataclass(frozen=True)
class DDIM(base.Solver):
  """DDIM (arXiv:2010.02502 eq. 12 and 16).

  Matches CompVis/latent-diffusion: ldm/models/diffusion/ddim.py.

  Attributes:
    eta: 0 deterministic, 1 as noisy as DDPM.
    temperature: factor of the noise.
  """

  eta: float = 0.0
  temperature: float = 1.0

  def step(self, carry: base.Carry, at: base.StepInputs) -> base.Carry:
    prediction = at.denoise(carry.x, at.level, True)
    next_level = at.next_level
    if self.eta == 0:
      x = base.euler(prediction, next_level)
      return base.Carry(x=x, prediction=prediction)
    std = self.eta * at.level.renewed(next_level)
    along = jnp.sqrt(jnp.maximum(next_level.sigma**2 - std**2, 0.0))
    mean = next_level.times(next_level.alpha, prediction.x0)
    mean = mean + next_level.times(along, prediction.eps)
    x = mean + next_level.times(std, self.temperature * at.noise())
    return base.Carry(x=x, prediction=prediction, mean=mean)
