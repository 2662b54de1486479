"""LDM (arXiv:2112.10752): diffusion of the latents of an autoencoder.

A U-Net is told the condition by attention (texts, layouts, classes), by
channels beside the latent (maps, small pictures, pictures with holes), by both
or with the noise level. Matches CompVis/latent-diffusion: ldm/models/diffusion/
{ddpm,ddim,plms}.py.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditions import condition as condition_lib
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import guidance
from pyramid_jax.diffusion import patches
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.networks import unet as unet_lib
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import conditioning
from pyramid_jax.systems import encoders
from pyramid_jax.systems import latent
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Inputs = encoders.Inputs
Params = system_lib.Params
Weights = system_lib.Weights


def predict(
  unet: unet_lib.UNet,
  variables: Mapping[str, Any],
  x: jax.Array,
  t: jax.Array,
  inputs: Inputs,
  **kwargs: Any,
) -> Any:
  """Applies the U-Net to a noisy latent and its condition.

  Args:
    unet: the denoiser.
    variables: its parameters, perhaps with a cache.
    x: (B, h, w, C) noisy latent.
    t: (B,) or (1,) noise levels.
    inputs: of the condition.
    **kwargs: of `unet.apply`.

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


def make_stage(
  unet: unet_lib.UNet,
  params: Any,
  levels: schedules.Levels,
  *,
  shape: tuple[int, int, int, int],
  context: Inputs,
  null: Inputs | None = None,
  scale: float = 1.0,
  interval: Sequence[float] = (),
  parameterization: str = 'eps',
  cached: bool = True,
  tiles: patches.Tiling | None = None,
) -> sampling.Stage:
  """Builds the only stage: noise in, the scaled latent out.

  Args:
    unet: the denoiser.
    params: its weights.
    levels: noise levels of the solver.
    shape: (B, h, w, C) of the latent.
    context: the condition of B images.
    null: the null condition, used when `scale` is not 1.
    scale: classifier-free guidance, 1 = none.
    interval: where it acts, see `guidance.classifier_free`.
    parameterization: what the network predicts: 'eps', 'x0' or 'v'.
    cached: compute keys and values once per image instead of once per step
      (the same numbers).
    tiles: windows of a latent larger than the network was trained for.
  """
  if tiles is not None:
    windows = make_stage(
      unet,
      params,
      levels,
      shape=(shape[0] * tiles.count, *tiles.size, shape[-1]),
      context=_of_windows(context, tiles),
      null=None if null is None else _of_windows(null, tiles),
      scale=scale,
      interval=interval,
      parameterization=parameterization,
      cached=cached,
    )
    return patches.split(windows, tiles)
  build = functools.partial(
    _stage,
    unet,
    params,
    levels,
    parameterization=parameterization,
    cached=cached,
  )
  stage = build(context, shape)
  if scale == 1 or null is None:
    return stage
  both = build(conditioning.pair(context, null), (2 * shape[0], *shape[1:]))
  return guidance.classifier_free(both, scale, interval, stage)


def _of_windows(inputs: Inputs, tiles: patches.Tiling) -> Inputs:
  """Cuts what lies on the latent's grid, gives the rest to every window."""
  concat = inputs.concat
  everywhere = jax.tree.map(
    lambda x: patches.repeat(x, tiles), dataclasses.replace(inputs, concat=None)
  )
  if concat is not None:
    concat = patches.windows(concat, tiles)
  return dataclasses.replace(everywhere, concat=concat)


def _stage(
  unet: unet_lib.UNet,
  params: Any,
  levels: schedules.Levels,
  context: Inputs,
  shape: tuple[int, int, int, int],
  *,
  parameterization: str,
  cached: bool,
) -> sampling.Stage:
  """The stage of one batch of conditions, without guidance."""

  def call(variables, x, time, **kwargs):
    # One level for the whole batch: it is embedded once.
    return predict(unet, variables, x, time[None], context, **kwargs)

  def enter(state, normal):
    del state
    x = normal(shape)
    variables = {'params': params}
    if cached:
      variables = latent.with_cache(
        params,
        lambda variables, **kwargs: call(variables, x, jnp.zeros(()), **kwargs),
      )
    return x, variables

  def denoise(x, level, variables, first=True):
    del first
    value = call(variables, x, level.time)
    return solvers.Prediction.of(parameterization, x, value, level)

  def leave(state, x, variables):
    del variables
    return [*state, x]

  return sampling.Stage(spans=((levels, denoise),), enter=enter, leave=leave)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LDM(latent.LatentSystem):
  """The system; see the module docstring and `systems.system.System`.

  Attributes, beside those of `latent.LatentSystem`:
    unet: the denoiser.
    loss: how the loss is formed.
    logvar_init: log variance of the errors of every level.
    learn_logvar: whether it is trained.
    scale_factor: of the latents, unless it is measured.
    scale_by_std: whether it is measured on the first batch.
    steps: solver steps.
    windows: (side, stride) of the windows in which a larger latent is
      sampled, (0, 0) for never.
  """

  unet: unet_lib.UNet
  loss: gaussian.LossSettings
  logvar_init: float
  learn_logvar: bool
  scale_factor: float
  scale_by_std: bool
  steps: int
  windows: tuple[int, int] = (0, 0)

  def _latent_shape(
    self, count: int, height: int, width: int
  ) -> tuple[int, int, int, int]:
    f = autoencoder.factor(self.first_stage)
    return count, height // f, width // f, self.latent_channels[0]

  def _tiles(self, height: int, width: int) -> patches.Tiling | None:
    """The windows of an image, None if one call sees it whole."""
    side, stride = self.windows
    _, *grid, _ = self._latent_shape(1, height, width)
    if not side or max(grid) <= side:
      return None
    return patches.tiling((grid[0], grid[1]), side, stride)

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    del batch  # all shapes are known
    keys = jax.random.split(key)
    tree, zeros = self.init_condition(keys[1])
    inputs = encoders.as_inputs(zeros)
    x = jnp.zeros(self._latent_shape(1, self.image_size, self.image_size))
    if inputs.concat is not None:
      x = jnp.concatenate([x, inputs.concat], axis=-1)
    params = {'condition': tree} if tree else {}
    params['unet'] = self.unet.init(
      keys[0], x, jnp.zeros((1,)), inputs.context, inputs.y
    )['params']
    if self.learn_logvar:
      params['logvar'] = jnp.full((self.chain.length,), self.logvar_init)
    return {'generator': params}, {
      'latent_scale': jnp.full((1,), self.scale_factor)
    }

  def losses(
    self,
    params: Params,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    step: jax.Array,
    batch: Batch,
  ) -> tuple[Mapping[str, tuple[jax.Array, Any]], Params]:
    time_key, drop_key, noise_key, draw_key, dropout_key = jax.random.split(
      key, 5
    )
    raw = self.batch_latents(frozen, batch, draw_key)
    count = raw[0].shape[0]
    scale = extra['latent_scale']
    if self.scale_by_std:
      scale = jnp.where(step == 0, latent.inverse_std(raw), scale)
    z = raw[0] * scale[0]
    inputs = encoders.as_inputs(
      self.training_context(params, frozen, drop_key, batch)
    )
    generator = params['generator']
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
      jax.random.randint(time_key, (count,), 0, self.chain.length),
      jax.random.normal(noise_key, z.shape),
      self._logvar(generator),
    )
    return {'generator': (loss, metrics)}, {'latent_scale': scale}

  def _logvar(self, generator: Any) -> jax.Array | None:
    if self.learn_logvar:
      return generator['logvar']
    if self.logvar_init:
      return jnp.full((self.chain.length,), self.logvar_init)
    return None

  def stages(
    self,
    weights: Weights,
    condition: condition_lib.Condition,
    shape: tuple[int, int, int],
    cached: bool = True,
  ) -> list[sampling.Stage]:
    has_null = condition.null is not None
    stage = make_stage(
      self.unet,
      weights.params['generator']['unet'],
      self.solver.levels(self.chain, self.steps),
      shape=self._latent_shape(*shape),
      context=encoders.as_inputs(condition.context),
      null=encoders.as_inputs(condition.null) if has_null else None,
      scale=self.guidance,
      interval=self.guidance_interval,
      parameterization=self.loss.parameterization,
      cached=cached,
      tiles=self._tiles(*shape[1:]),
    )
    return [stage]

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    return self.decode_scaled(weights, state)

  def preview(
    self, weights: Weights, key: jax.Array, batch: Batch
  ) -> jax.Array:
    return system_lib.sample_batch(self, weights, key, batch)


def create(config: ConfigDict) -> LDM:
  """Builds the system of a config.

  Raises:
    ValueError: a field that does not fit the others; see the message.
  """
  common = latent.fields(config)
  channels = autoencoder.channels(common['first_stage'])
  if len(channels) != 1:
    raise ValueError(
      f'the first stage has {len(channels)} scales, must have one for ldm'
    )
  d, steps = config.diffusion, system_lib.steps_of_one_stage(config)
  common['solver'].levels(common['chain'], steps)  # refuses a bad count
  return LDM(
    **common,
    unet=_unet(config, channels[0], common['encoder']),
    loss=gaussian.LossSettings(
      loss_type=d.loss_type,
      parameterization=d.parameterization,
      simple_weight=d.simple_weight,
      elbo_weight=d.elbo_weight,
    ),
    logvar_init=d.logvar_init,
    learn_logvar=d.learn_logvar,
    scale_factor=d.scale_factor,
    scale_by_std=d.scale_by_std,
    steps=steps,
    windows=tuple(config.sample.windows),
  )


def _unet(
  config: ConfigDict, channels: int, encoder: conditioning.Encoder | None
) -> unet_lib.UNet:
  """Builds the U-Net, whose channels and conditions follow from the rest."""
  widths = encoders.Widths() if encoder is None else encoder.widths
  fields = config.network.to_dict()
  attends = fields.get('use_spatial_transformer', False)
  if attends != bool(widths.context):
    raise ValueError(
      f'config.network.use_spatial_transformer is {attends}, must be'
      f' {not attends}: config.condition.task is {config.condition.task!r} and'
      f' config.condition.also {config.condition.also!r}'
    )
  network = unet_lib.UNet(
    **fields,
    in_channels=channels + widths.concat,
    out_channels=channels,
    context_dim=widths.context or None,
    num_classes=widths.classes or None,
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
    attention=config.attention,
  )
  network.check_options()
  return network
