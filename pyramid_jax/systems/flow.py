"""Flow matching (arXiv:2210.02747) with a U-Net, of images or of latents.

The state x_t = (1 - t) x0 + t eps moves along straight lines (rectified flow,
arXiv:2209.03003); the network predicts their velocity eps - x0, and an Euler
step follows it. The times of training are uniform or logit-normal
(arXiv:2403.03206, section 3.1).
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import prediction as prediction_lib
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.networks import pretrained
from pyramid_jax.networks import unet as unet_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import latent
from pyramid_jax.systems import ldm
from pyramid_jax.systems import measuring
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Inputs = condition_lib.Inputs
Params = system_lib.Params
Shape = latent.Shape
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
    0.0, 'The mean of the logit of a time, above 0 for more noise.'
  ),
  'diffusion.time_std': Field(
    1.0, 'The standard deviation of the logit of a time.', above=0
  ),
}
CHECKS = fields_lib.GENERATIVE_CHECKS


def network_class(values: Mapping[str, Any]) -> type:
  """Returns the class whose constructor fields are `config.network`."""
  del values
  return unet_lib.UNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
  """The times of training.

  Attributes:
    kind: one of `TIMES`.
    mean: of the logit of 'logit_normal'.
    std: of the logit of 'logit_normal', above 0.
  """

  kind: str
  mean: float
  std: float

  def draw(self, key: jax.Array, count: int) -> jax.Array:
    """Draws (B,) float32 times in (0, 1), 1 is noise."""
    if self.kind == 'uniform':
      return jax.random.uniform(key, (count,))
    logit = self.mean + self.std * jax.random.normal(key, (count,))
    return jax.nn.sigmoid(logit)


def make_levels(steps: int) -> levels_lib.Levels:
  """Returns the levels of `steps` equal steps from noise to data.

  Raises:
    ValueError: no step.
  """
  if steps < 1:
    raise ValueError(f'sampling steps {steps} must be at least 1')
  t = np.linspace(1.0, 0.0, steps + 1)
  ones, alpha = np.ones_like(t), 1.0 - t
  logs = levels_lib.ancestral_logs(alpha, t)
  return levels_lib.Levels(
    time=levels_lib.float32(TIME_SCALE * t),
    alpha=levels_lib.float32(alpha),
    sigma=levels_lib.float32(t),
    part=levels_lib.float32(t),
    log_beta=levels_lib.float32(logs[0]),
    log_variance=levels_lib.float32(logs[1]),
    t=levels_lib.float32(t),
    frame=levels_lib.float32(ones),
    dalpha=levels_lib.float32(-ones),
    dsigma=levels_lib.float32(ones),
    is_trained=levels_lib.flags(t > 0),
    h=levels_lib.float32(np.append(np.diff(t), 0.0)),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
  """The U-Net with its weights.

  Attributes:
    unet: the network.
    params: its weights.
  """

  unet: unet_lib.UNet
  params: Any

  def stage(
    self, levels: levels_lib.Levels, inputs: Inputs, shape: Shape
  ) -> sampling.Stage:
    """Builds the stage of one batch of conditions, without guidance.

    Args:
      levels: of the solver.
      inputs: the condition of B images.
      shape: (B, h, w, C) of the state.
    """

    def call(variables, x, time, **kwargs):
      # One time for the whole batch is embedded once.
      t = jnp.atleast_1d(time)
      return ldm.predict(self.unet, variables, x, t, inputs, **kwargs)

    def enter(state, normal):
      del state
      x = normal(shape)
      variables = latent.with_cache(
        self.params,
        lambda variables, **kwargs: call(variables, x, jnp.zeros(()), **kwargs),
      )
      return x, variables

    def denoise(x, level, variables, first=True, features=()):
      del first
      out = call(variables, x, level.time, features=features)
      velocity, found = out if features else (out, {})
      velocity = velocity.astype(jnp.float32)
      return prediction_lib.Prediction(
        x0=x - level.sigma * velocity,
        eps=x + level.alpha * velocity,
        features=found,
      )

    def leave(state, x, x0, variables):
      del x0, variables
      return [*state, x]

    segment = sampling.Segment(levels=levels, denoise=denoise)
    return sampling.Stage(segments=(segment,), enter=enter, leave=leave)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow(system_lib.Sampled):
  """The system; see the module docstring and `systems.system.Generative`.

  Attributes:
    space: images, or the latents of a first stage.
    unet: predicts the velocity.
    encoder: of the condition.
    times: of training.
    drop: share of conditions replaced by the null condition in training.
    image_size: px of a sample.
  """

  space: spaces.Space
  unet: unet_lib.UNet
  encoder: conditioning.Encoder
  times: Times
  drop: float
  image_size: int

  @property
  def has_latents(self) -> bool:
    return self.space.has_latents

  def state_shape(self, shape: tuple[int, int, int]) -> Shape:
    """Returns (B, h, w, C) of the states of images (B, H, W)."""
    count, height, width = shape
    f = self.space.factor
    return count, height // f, width // f, self.space.channels

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    del batch  # all shapes are known
    keys = jax.random.split(key)
    tree, inputs = conditioning.init(self.encoder, keys[1])
    x = jnp.zeros(self.state_shape((1, self.image_size, self.image_size)))
    if inputs.concat is not None:
      x = jnp.concatenate([x, inputs.concat], axis=-1)
    params = {'condition': tree} if tree else {}
    params['unet'] = self.unet.init(
      keys[0], x, jnp.zeros((1,)), inputs.context, inputs.y
    )['params']
    return {'generator': params}, self.space.extra()

  def frozen_parts(self) -> Mapping[str, pretrained.FrozenPart]:
    return {
      **self.space.frozen_parts(),
      **conditioning.frozen_parts(self.encoder),
    }

  def measure(
    self,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    over: measuring.OverBatch,
  ) -> Params:
    # The latents are drawn as `losses` draws them.
    latent_key = jax.random.split(key, 5)[0]
    return self.space.measured(frozen, extra, latent_key, over)

  def losses(
    self,
    params: Params,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    step: jax.Array,
    batch: Batch,
  ) -> tuple[Mapping[str, tuple[jax.Array, Any]], Params]:
    del step
    latent_key, time_key, noise_key, drop_key, dropout_key = jax.random.split(
      key, 5
    )
    generator = params['generator']
    x0 = self.space.training(frozen, extra, batch, latent_key)
    inputs = conditioning.training_context(
      self.encoder, generator, frozen, self.drop, drop_key, batch
    )
    t = self.times.draw(time_key, x0.shape[0])
    eps = jax.random.normal(noise_key, x0.shape)
    place = t[:, None, None, None]
    velocity = ldm.predict(
      self.unet,
      {'params': generator['unet']},
      (1.0 - place) * x0 + place * eps,
      TIME_SCALE * t,
      inputs,
      train=True,
      rngs={'dropout': dropout_key},
    )
    errors = jnp.square(velocity.astype(jnp.float32) - (eps - x0))
    return {'generator': (errors.mean(), {})}, extra

  def ema_patterns(self) -> list[str]:
    return ['generator/.*']

  def check_spec(self, spec: spec_lib.SamplerSpec) -> None:
    conditioning.check_guidance(self.encoder, spec.guidance)
    spec.make_solver()
    spec.check_channels(self.space.channels)
    spec.check_scales(self.stage_count)
    make_levels(spec.steps_of(1)[0])
    if spec.solver not in SOLVERS:
      raise ValueError(
        f'config.sample.solver is {spec.solver!r}, must be one of'
        f' {", ".join(SOLVERS)} for flow'
      )
    for name, value, only in (
      ('spacing', spec.spacing, 'auto'),
      ('windows', spec.windows, (0, 0)),
      ('churn', spec.churn.amount, 0),
    ):
      if value != only:
        raise ValueError(
          f'config.sample.{name} is {value!r}, must be {only!r} for flow'
        )

  def dense_spec(self) -> spec_lib.SamplerSpec:
    return spec_lib.SamplerSpec(
      solver='euler', steps=(system_lib.CONTINUOUS_LEVELS,)
    )

  def example_condition(self) -> condition_lib.Condition:
    return conditioning.blank(self.encoder)

  def condition(
    self, weights: Weights, batch: Batch
  ) -> condition_lib.Condition:
    tree = self.encoder.weights(weights.params['generator'], weights.frozen)
    return conditioning.condition(self.encoder, tree, batch)

  def stages(
    self,
    weights: Weights,
    condition: condition_lib.Condition,
    shape: tuple[int, int, int],
    spec: spec_lib.SamplerSpec,
  ) -> list[sampling.Stage]:
    params = weights.params['generator']['unet']
    denoiser = Denoiser(unet=self.unet, params=params)
    levels = make_levels(spec.steps_of(1)[0])

    def build(inputs, shape):
      return denoiser.stage(levels, inputs, shape)

    stage = classifier_free.guided_stage(
      build,
      self.state_shape(shape),
      condition.context,
      condition.null,
      spec.guidance_of(0),
    )
    return [stage]

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    return [self.space.states(weights, image)]

  def edited(
    self,
    weights: Weights,
    stages: list[sampling.Stage],
    edit: system_lib.Edit,
  ) -> list[sampling.Stage]:
    (stage,), (state,) = stages, self.states(weights, edit.image)
    return [editing.edited(stage, state, edit.mask, edit.strength)]

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    return self.space.decode(weights, state[-1])


def create(config: ConfigDict) -> Flow:
  """Builds the system of a config, on latents if it has a first stage.

  Raises:
    ValueError: a field that does not fit the others; see the message.
  """
  d = config.diffusion
  in_latents = 'first_stage' in config
  space = spaces.create(config, in_latents)
  first_stage = None
  if in_latents:
    first_stage = latent.space_fields(config)['first_stage']
  encoder = conditioning.create(config, first_stage)
  return Flow(
    space=space,
    unet=ldm.network(config, space.channels, encoder),
    encoder=encoder,
    times=Times(kind=d.times, mean=d.time_mean, std=d.time_std),
    drop=config.condition.cond_dropout,
    image_size=config.data.image_size,
  )
