"""LDM (arXiv:2112.10752): diffusion of latents of an autoencoder, or of images.

A U-Net is conditioned by attention (texts, layouts, classes), by channels
concatenated with the latent (maps, low-resolution images, holes), by both or
with the noise level. Matches CompVis/latent-diffusion: ldm/models/diffusion/
{ddpm,ddim,plms}.py.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion import tiling
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.guidance import image
from pyramid_jax.networks import lpips
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pretrained
from pyramid_jax.networks import unet as unet_lib
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import denoiser as denoiser_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import sampled
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib


BHW = system_lib.BHW
Batch = system_lib.Batch
Condition = condition_lib.Condition
Inputs = condition_lib.Inputs
Params = system_lib.Params
SamplerSpec = spec_lib.SamplerSpec
Stages = system_lib.Stages
Shape = sampled.Shape
Weights = system_lib.Weights

LPIPS = 'lpips'  # the distance, and the part with its weights

FIELDS = {
  **fields_lib.LOSS_TYPE,
  **fields_lib.CHAIN,
  **fields_lib.SCALE,
  'diffusion.simple_weight': Field(
    1.0,
    'The weight of the mean error in the training loss.',
    low=0,
    high=ranges.WEIGHT,
  ),
  'diffusion.elbo_weight': Field(
    0.0,
    'The weight of the variational bound in the training loss.',
    low=0,
    high=ranges.WEIGHT,
  ),
  'diffusion.logvar_init': Field(
    0.0,
    'The initial log variance of the errors at a timestep.',
    low=-ranges.LOGARITHM,
    high=ranges.LOGARITHM,
  ),
  'diffusion.learn_logvar': Field(
    False, 'Whether that log variance is trained, one number a timestep.'
  ),
  **sample_fields.WINDOWS,
  **sample_fields.SHAPE,
  **sample_fields.CLASSIFIER,
  **sample_fields.IMAGE,
}
CHECKS = (
  *fields_lib.GENERATIVE_CHECKS,
  sample_fields.windows_overlap,
  sample_fields.shape_is_whole,
)
# The class whose constructor fields are `config.network`.
network_class = lambda values: unet_lib.UNet


def predict(
  unet: unet_lib.UNet,
  variables: Mapping[str, Any],
  x: jax.Array,
  t: jax.Array,
  inputs: Inputs,
  **kwargs: Any,
) -> Any:
  """Applies the U-Net to latents (B, h, w, C) at levels (B,), or (1,) for all.

  `variables` may hold a cache; `kwargs` are those of `unet.apply`.

  Raises:
    ValueError: channels that do not lie on the latent's grid.
  """
  if inputs.concat is not None:
    if inputs.concat.shape[:3] != x.shape[:3]:
      raise ValueError(
        f'the condition has shape {inputs.concat.shape}, the latent'
        f' {x.shape}: batch and grid must be equal'
      )
    x = jnp.concatenate([x, inputs.concat], axis=-1)
  return unet.apply(variables, x, t, inputs.context, inputs.y, **kwargs)


def denoiser(
  unet: unet_lib.UNet, params: Any, parameterization: str = 'eps'
) -> denoiser_lib.Denoiser:
  """Returns the U-Net with its weights, which predicts 'eps', 'x0' or 'v'."""
  return denoiser_lib.Denoiser(
    call=functools.partial(predict, unet),
    params=params,
    predict=denoiser_lib.from_output(parameterization),
  )


def tiled_stage(
  network: denoiser_lib.Denoiser,
  levels: levels_lib.Levels,
  condition: Condition,
  shape: Shape,
  guidance: classifier_free.Guidance | None,
  tiles: tiling.Tiling,
) -> sampling.Stage:
  """Builds the stage of latents (B, h, w, C) larger than those of training.

  Each window takes its part of the condition on the latent's grid, and all of
  the rest.
  """

  def of_windows(inputs: Inputs) -> Inputs:
    cut = inputs.concat
    rest = jax.tree.map(
      lambda x: jnp.repeat(x, tiles.count, axis=0),
      dataclasses.replace(inputs, concat=None),
    )
    cut = None if cut is None else tiling.windows(cut, tiles)
    return dataclasses.replace(rest, concat=cut)

  shape = (shape[0] * tiles.count, *tiles.size, shape[-1])
  condition = condition.map(of_windows)
  return tiling.split(network.guided(levels, condition, shape, guidance), tiles)


def init_unet(
  system: sampled.Sampled, unet: unet_lib.UNet, key: jax.Array
) -> dict[str, Any]:
  """Returns the initial weights of a system's U-Net and of its encoder."""
  keys = jax.random.split(key)
  params, inputs = system.init_condition(keys[1])
  x = jnp.zeros(system.state_shape((1, system.image_size, system.image_size)))
  if inputs.concat is not None:
    x = jnp.concatenate([x, inputs.concat], axis=-1)
  params['unet'] = unet.init(
    keys[0], x, jnp.zeros((1,)), inputs.context, inputs.y
  )['params']
  return params


@dataclasses.dataclass(frozen=True, kw_only=True)
class LDM(sampled.OnChain):
  """The system; see the module docstring and `systems.system.Generative`."""

  unet: unet_lib.UNet
  loss: gaussian.LossSettings
  logvar_init: float  # log variance of the errors of every level
  learn_logvar: bool  # whether it is trained
  # What guides super-resolution, '' for nothing, and the weights of LPIPS.
  image_distance: str = ''
  image_weights: str = ''
  any_shape: ClassVar[bool] = True
  has_windows: ClassVar[bool] = True

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    params = init_unet(self, self.unet, key)
    if self.learn_logvar:
      params['logvar'] = jnp.full((self.chain.length,), self.logvar_init)
    return {'generator': params}, self.space.extra()

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    parts = dict(super().pretrained_parts())
    if self.image_distance == LPIPS:
      field = 'sample.image_weights'
      parts[LPIPS] = autoencoder.lpips_part(self.image_weights, field)
    return parts

  def latent_key(self, key: jax.Array) -> jax.Array:
    return jax.random.split(key, 5)[3]

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    del step
    time_key, drop_key, noise_key, draw_key, dropout_key = jax.random.split(
      key, 5
    )
    (z,) = self.space.training(weights, batch, draw_key)
    inputs = self.training_inputs(weights, drop_key, batch)
    generator = weights.params['generator']
    loss, metrics = gaussian.loss(
      lambda x, t: predict(
        self.unet,
        {'params': generator['unet']},
        x,
        t,
        inputs,
        train=True,
        rngs={'dropout': dropout_key},
      ),
      self.chain,
      self.loss,
      z,
      jax.random.randint(time_key, z.shape[:1], 0, self.chain.length),
      jax.random.normal(noise_key, z.shape),
      self._logvar(generator),
    )
    return {'generator': (loss, metrics)}, weights.extra

  def _logvar(self, generator: Any) -> jax.Array | None:
    if self.learn_logvar:
      return generator['logvar']
    if self.logvar_init:
      return jnp.full((self.chain.length,), self.logvar_init)
    return None

  def denoiser(self, params: Any, stage: int) -> denoiser_lib.Denoiser:
    del stage
    return denoiser(self.unet, params['unet'], self.loss.parameterization)

  def stages(
    self, weights: Weights, condition: Condition, shape: BHW, spec: SamplerSpec
  ) -> Stages:
    side, stride = spec.windows
    self.check_shape(shape[1:], side)
    size = self.state_shape(shape)
    given = condition.context.concat
    if given is not None and given.shape[1:3] != size[1:3]:
      raise errors.UserError(
        f'the condition has the grid of {given.shape[1]} x {given.shape[2]},'
        f' images of {shape[1]} x {shape[2]} px have {size[1]} x {size[2]}'
      )
    if not side or max(size[1:3]) <= side:
      stages = super().stages(weights, condition, shape, spec)
    else:
      (levels,) = self.levels(spec)
      network = self.denoiser(self.generator(weights), 0)
      tiles = tiling.tiling(size[1:3], side, stride)
      guidance = spec.guidance_of(0)
      stages = [tiled_stage(network, levels, condition, size, guidance, tiles)]
    if not self.image_distance or spec.image_scale is None:
      return stages
    distance = self._distance(weights, condition)
    scale = spec.image_scale
    return [image.image_guided(stage, distance, scale) for stage in stages]

  def _distance(self, weights: Weights, condition: Condition) -> image.Distance:
    """Returns how far a latent is from the low-resolution images."""
    wanted, space = condition.context.concat, self.space
    assert wanted is not None  # see `create`
    assert isinstance(space, spaces.Latents)

    def distance(z: jax.Array) -> jax.Array:
      large = space.decoded(weights, [z])
      # Downsampled as Pillow's bicubic filter does.
      small = jax.image.resize(large, wanted.shape, 'cubic', antialias=True)
      if self.image_distance == LPIPS:
        tree = weights.frozen[LPIPS]
        return params_lib.apply(lpips.LPIPS(), tree, small, wanted)
      return 0.5 * jnp.square(small - wanted).sum((1, 2, 3))

    return distance

  def check_shape(self, shape: tuple[int, int], window: int = 0) -> None:
    """Refuses images (H, W) that the network cannot make.

    `window` is the side of the windows in which larger latents are made, 0 for
    none.

    Raises:
      UserError: sides that are no multiples of what the first stage, or it and
        the coarsest level of the U-Net, make one place of.
    """
    factor = self.space.factor
    is_cut = window and max(shape) > window * factor
    coarsest = 2 ** (len(self.unet.channel_mult) - 1)
    cell = factor if is_cut else factor * coarsest
    if shape[0] % cell or shape[1] % cell:
      raise errors.UserError(
        f'an image of {shape[0]} x {shape[1]} px must have sides that are'
        f' multiples of {cell}'
      )


def create(config: ConfigDict) -> LDM:
  """Builds the system, on latents if the config has a first stage.

  Without one it is the LDM-1 of the paper: images are diffused.

  Raises:
    ValueError: fields that do not fit.
  """
  sampled.check_fixed_variance(config)
  space = spaces.created(config)
  common = sampled.chain_fields(config, space)
  d = config.diffusion
  is_enlarging = config.condition.task == 'superres' and space.has_latents
  if config.sample.image_distance and not is_enlarging:
    fields_lib.check_value(
      'sample.image_distance',
      config.sample.image_distance,
      ('',),
      ", except for config.condition.task = 'superres' in latents",
    )
  unet = network(config, space.channels, common['encoder'])
  if unet.channel_mult[0] != 1:  # ADM's first layer is as wide as its level
    raise ValueError(
      f'config.network.channel_mult is {unet.channel_mult}, must start with 1'
    )
  return LDM(
    **common,
    unet=unet,
    loss=gaussian.LossSettings(
      loss_type=d.loss_type,
      parameterization=d.parameterization,
      simple_weight=d.simple_weight,
      elbo_weight=d.elbo_weight,
    ),
    logvar_init=d.logvar_init,
    learn_logvar=d.learn_logvar,
    image_distance=config.sample.image_distance,
    image_weights=config.sample.image_weights,
  )


def network(
  config: ConfigDict,
  channels: int,
  encoder: conditioning.Encoder,
  values: int = 1,
) -> unet_lib.UNet:
  """Builds the U-Net for states of so many channels and a condition.

  Args:
    config: of the system.
    channels: of a state.
    encoder: of the condition.
    values: the number of values that are predicted of each channel.

  Raises:
    ValueError: fields of `config.network` that do not fit the condition.
  """
  widths = encoder.widths
  fields = sampled.network_fields(config)
  attends = fields.get('use_spatial_transformer', False)
  if attends != bool(widths.context):
    c = config.condition
    raise ValueError(
      f'config.network.use_spatial_transformer is {attends}, must be'
      f' {not attends}: config.condition.task is {c.task!r} and'
      f' config.condition.also {c.also!r}'
    )
  unet = unet_lib.UNet(
    **fields,
    scan_blocks=config.scan_blocks,
    in_channels=channels + widths.concat,
    out_channels=values * channels,
    context_dim=widths.context or None,
    num_classes=widths.classes or None,
  )
  unet.check_options()
  return unet
