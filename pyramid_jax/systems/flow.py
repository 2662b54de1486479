"""Flow matching (arXiv:2210.02747) with a U-Net, of images or of latents.

The state x_t = (1 - t) x0 + t eps moves along straight lines (rectified flow,
arXiv:2209.03003); the network predicts their velocity eps - x0, and an Euler
step follows it. The times of training are uniform or logit-normal
(arXiv:2403.03206, section 3.1).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.networks import unet as unet_lib
from pyramid_jax.systems import denoiser as denoiser_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import ldm
from pyramid_jax.systems import sampled
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights

SOLVERS = ('euler', 'heun', 'ddim', 'dpmpp_2m')
TIMES = ('uniform', 'logit_normal')
# Networks embed the time as an index of up to 1,000.
TIME_SCALE = 1000.0

FIELDS = {
  **sample_fields.COMMON,
  **sample_fields.SKETCH,
  **fields_lib.SCALE,
  'diffusion.times': Field(
    'logit_normal',
    'How the times of training are distributed in [0, 1].',
    choices=TIMES,
  ),
  'diffusion.time_mean': Field(
    0.0,
    'The mean of the logit of a time, above 0 for more noise.',
    low=-ranges.LOGARITHM,
    high=ranges.LOGARITHM,
  ),
  'diffusion.time_std': Field(
    1.0,
    'The standard deviation of the logit of a time.',
    above=0,
    high=ranges.LOGARITHM,
  ),
}
CHECKS = fields_lib.GENERATIVE_CHECKS
# The class whose constructor fields are `config.network`.
network_class = lambda values: unet_lib.UNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
  """The distribution of the times of training."""

  kind: str  # one of `TIMES`
  mean: float  # The mean of the logit of 'logit_normal'.
  std: float  # The deviation of that logit, above 0.

  def draw(self, key: jax.Array, count: int) -> jax.Array:
    """Draws (B,) float32 times in (0, 1), 1 is noise."""
    if self.kind == 'uniform':
      return jax.random.uniform(key, (count,))
    logit = self.mean + self.std * jax.random.normal(key, (count,))
    return jax.nn.sigmoid(logit)


def make_levels(steps: int) -> levels_lib.Levels:
  """Returns the levels of equal steps from noise to data.

  Raises:
    ValueError: fewer than one step.
  """
  checks.check_steps(steps)
  t = np.linspace(1.0, 0.0, steps + 1)
  ones = np.ones_like(t)
  return levels_lib.make(
    time=TIME_SCALE * t,
    alpha=1.0 - t,
    sigma=t,
    part=t,
    is_trained=t > 0,
    path=(t, -ones, ones),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow(sampled.Sampled):
  """The system; see the module docstring and `systems.system.Generative`."""

  unet: unet_lib.UNet  # predicts the velocity
  times: Times

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    params = ldm.init_unet(self, self.unet, key)
    return {'generator': params}, self.space.extra()

  def latent_key(self, key: jax.Array) -> jax.Array:
    return jax.random.split(key, 5)[0]

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    del step
    latent_key, time_key, noise_key, drop_key, dropout_key = jax.random.split(
      key, 5
    )
    (x0,) = self.space.training(weights, batch, latent_key)
    inputs = self.training_inputs(weights, drop_key, batch)
    t = self.times.draw(time_key, x0.shape[0])
    eps = jax.random.normal(noise_key, x0.shape)
    place = t[:, None, None, None]
    velocity = ldm.predict(
      self.unet,
      {'params': weights.params['generator']['unet']},
      (1.0 - place) * x0 + place * eps,
      TIME_SCALE * t,
      inputs,
      train=True,
      rngs={'dropout': dropout_key},
    )
    errors = jnp.square(velocity.astype(jnp.float32) - (eps - x0))
    return {'generator': (errors.mean(), {})}, weights.extra

  def levels(self, spec: spec_lib.SamplerSpec) -> list[levels_lib.Levels]:
    return [make_levels(*spec.steps_of(1))]

  def check_spec(self, spec: spec_lib.SamplerSpec) -> None:
    super().check_spec(spec)
    for name, value, allowed in (
      ('solver', spec.solver, SOLVERS),
      ('spacing', spec.spacing, ('auto',)),
      ('churn', spec.churn.amount, (0,)),
    ):
      fields_lib.check_value(f'sample.{name}', value, allowed, ' for flow')

  def denoiser(self, params: Any, stage: int) -> denoiser_lib.Denoiser:
    del stage

    def predict(network, x, level, inputs):
      del inputs
      velocity = network(x, level.time).astype(jnp.float32)
      return levels_lib.Prediction(
        x0=x - level.sigma * velocity, eps=x + level.alpha * velocity
      )

    return denoiser_lib.Denoiser(
      call=functools.partial(ldm.predict, self.unet),
      params=params['unet'],
      predict=predict,
    )


def create(config: ConfigDict) -> Flow:
  """Builds the system, on latents if the config has a first stage.

  Raises:
    ValueError: fields that do not fit.
  """
  d = config.diffusion
  space = spaces.created(config)
  encoder = conditioning.create(config, space.first_stage)
  return Flow(
    **sampled.fields(config, space, encoder),
    unet=ldm.network(config, space.channels, encoder),
    times=Times(kind=d.times, mean=d.time_mean, std=d.time_std),
  )
