"""What the systems share that are trained by the losses of iDDPM and ADM.

The network may learn the variance of ancestral steps; see
`diffusion.iddpm_loss`.
"""

import dataclasses
from typing import Any

import jax

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import iddpm_loss
from pyramid_jax.diffusion import timesteps
from pyramid_jax.systems import sampled
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights

LOSS = {
  'diffusion.loss': Field(
    'mse',
    'The training loss: of the mean alone (mse), with the variational bound'
    ' (rescaled_mse), or the bound (rescaled_kl).',
    choices=iddpm_loss.LOSSES,
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class IDDPM(sampled.OnChain):
  """The losses of a system, to be derived from.

  A system adds `init`, `denoiser` and `call`.
  """

  loss: iddpm_loss.LossSettings

  def call(
    self,
    generator: Any,
    x: jax.Array,
    t: jax.Array,
    inputs: condition_lib.Inputs,
    key: jax.Array,
  ) -> jax.Array:
    """Applies the network in training.

    Args:
      generator: the weights of the networks and of the encoder.
      x: (B, h, w, C) the noisy states.
      t: (B,) their times.
      inputs: the condition.
      key: the key of dropout.

    Returns:
      (B, h, w, C), or (B, h, w, 2 C) with a learned variance.
    """
    raise NotImplementedError

  def latent_key(self, key: jax.Array) -> jax.Array:
    return jax.random.split(key, 4)[2]

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    del step
    time_key, noise_key, draw_key, drop_key = jax.random.split(key, 4)
    (z,) = self.space.training(weights, batch, draw_key)
    inputs = self.training_inputs(weights, drop_key, batch)
    generator = weights.params['generator']
    terms = iddpm_loss.loss(
      lambda x, t: self.call(generator, x, t, inputs, drop_key),
      timesteps.respaced_levels(self.chain),
      self.loss,
      z,
      jax.random.randint(time_key, z.shape[:1], 0, self.chain.length),
      jax.random.normal(noise_key, z.shape),
    )
    metrics = {name: term.mean() for name, term in terms.items()}
    return {'generator': (metrics.pop('loss'), metrics)}, weights.extra
