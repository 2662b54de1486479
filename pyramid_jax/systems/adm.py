"""ADM (arXiv:2105.05233): diffusion of images with a learned variance.

A U-Net is conditioned on the class with the noise level, or not at all; a
classifier may guide it, see `systems.classifier`. Matches
openai/guided-diffusion: guided_diffusion/{unet,gaussian_diffusion}.py and
scripts/image_train.py.
"""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import iddpm_loss
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.networks import unet as unet_lib
from pyramid_jax.systems import denoiser as denoiser_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import iddpm
from pyramid_jax.systems import ldm
from pyramid_jax.systems import sampled
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib


Params = system_lib.Params

FIELDS = {
  **iddpm.LOSS,
  **fields_lib.CHAIN,
  **sample_fields.CLASSIFIER,
  'sample.clip': Field(
    True,
    'Whether clean images that are predicted are kept in [-1, 1].',
    resumable=True,
  ),
}
CHECKS = fields_lib.GENERATIVE_CHECKS
# The class whose constructor fields are `config.network`.
network_class = lambda values: unet_lib.UNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class ADM(iddpm.IDDPM):
  """The system; see the module docstring and `systems.system.Generative`."""

  unet: unet_lib.UNet
  clip: bool  # whether clean predictions of the sampler stay in [-1, 1]

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    params = ldm.init_unet(self, self.unet, key)
    return {'generator': params}, self.space.extra()

  def call(
    self,
    generator: Any,
    x: jax.Array,
    t: jax.Array,
    inputs: condition_lib.Inputs,
    key: jax.Array,
  ) -> jax.Array:
    variables, rngs = {'params': generator['unet']}, {'dropout': key}
    return ldm.predict(
      self.unet, variables, x, t, inputs, train=True, rngs=rngs
    )

  def denoiser(self, params: Any, stage: int) -> denoiser_lib.Denoiser:
    del stage
    parameterization = self.loss.parameterization
    found = ldm.denoiser(self.unet, params['unet'], parameterization)
    if not self.clip:
      return found
    return dataclasses.replace(found, predict=_clipped(found.predict))


def _clipped(predict: denoiser_lib.Predict) -> denoiser_lib.Predict:
  """Returns the prediction with its clean image in [-1, 1]."""

  def clipped(network, x, level, inputs):
    return predict(network, x, level, inputs).clipped(x, level)

  return clipped


def create(config: ConfigDict) -> ADM:
  """Builds the system; raises ValueError for fields that do not fit."""
  d, space = config.diffusion, spaces.Pixels()
  common = sampled.chain_fields(config, space)
  values = 2 if d.variance == 'learned_range' else 1
  return ADM(
    **common,
    unet=ldm.network(config, space.channels, common['encoder'], values),
    loss=iddpm_loss.LossSettings(
      loss=d.loss, parameterization=d.parameterization, variance=d.variance
    ),
    clip=config.sample.clip,
  )
