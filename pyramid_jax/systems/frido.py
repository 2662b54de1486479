"""Frido (arXiv:2208.13753): feature pyramid diffusion, coarse to fine.

The scales of a multi-scale VQGAN are diffused one after the other by one
PyU-Net, conditioned on the scale; finished scales gate its norms. Every scale
is trained at every step. Matches davidhalladay/Frido: frido/models/diffusion/
{frido,ddim,plms}.py in the official layout, where all scales live on the grid
of the finest; `native_scales` diffuses each at its own resolution.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import schedules
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pyunet
from pyramid_jax.networks.layers import resampling
from pyramid_jax.systems import denoiser as denoiser_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import sampled
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib


BHW = system_lib.BHW
Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights

# (x, t, stage) -> predicted noise of the stage's scale
Denoiser = Callable[[jax.Array, jax.Array, int], jax.Array]

FIELDS = {
  **fields_lib.LOSS_TYPE,
  **fields_lib.CHAIN,
  **fields_lib.NOISE_MIX,
  'diffusion.stage_loss_ratio': Field(
    (0.5, 0.5),
    'The weight of each scale in the training loss, coarse to fine.',
    low=0,
    high=ranges.WEIGHT,
  ),
  'diffusion.native_scales': Field(
    False,
    'Whether each scale is diffused at its own resolution, instead of on the'
    ' grid of the finest.',
  ),
}
CHECKS = fields_lib.GENERATIVE_CHECKS
# The class whose constructor fields are `config.network`.
network_class = lambda values: pyunet.PyUNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
  """How the training loss is formed."""

  loss_type: str  # 'l1' or 'l2'
  noise_mix_ratio: float  # share of noise in the coarser scales
  stage_loss_ratio: tuple[float, ...]  # the weight of each scale, coarse first
  parameterization: str = 'eps'  # The network predicts eps, x0 or v.

  def __post_init__(self):
    gaussian.check_parameterization(self.parameterization)


def stage_input(
  zs: Sequence[jax.Array],
  noises: Sequence[jax.Array],
  alpha: jax.Array,
  sigma: jax.Array,
  mix_ratio: float,
) -> jax.Array:
  """Returns the network's input at stage s = len(zs) - 1 of training.

  Args:
    zs: clean scales 0..s, coarse first, (B, H_j, W_j, C_j).
    noises: standard normals of the same shapes.
    alpha: (B,) of the drawn noise level.
    sigma: (B,) of the drawn noise level.
    mix_ratio: share of noise in the scales before the last.

  Returns:
    (B, H_s, W_s, C_0 + ... + C_s): the mixed coarser scales, upsampled to the
    grid of scale s, and the noisy scale s.
  """
  *coarse, z = zs
  _, height, width, _ = z.shape
  mixed = [
    resampling.nearest(gaussian.mix_noise(c, n, mix_ratio), (height, width))
    for c, n in zip(coarse, noises[:-1], strict=True)
  ]
  noisy = gaussian.q_sample(z, noises[-1], alpha, sigma)
  return jnp.concatenate([*mixed, noisy], axis=-1)


def diffusion_loss(
  denoiser: Denoiser,
  chain: schedules.Chain,
  settings: LossSettings,
  zs: Sequence[jax.Array],
  t: jax.Array,
  noises: Sequence[Sequence[jax.Array]],
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of all scales at recorded noise (frido.py `p_losses`).

  Args:
    denoiser: the network with its condition.
    chain: the training chain.
    settings: see `LossSettings`.
    zs: scaled latents, coarse first, each on the grid it is diffused at.
    t: (B,) int32, one level per example for all scales.
    noises: for stage s the noises of scales 0..s.

  Returns:
    The weighted loss and metrics: `loss_{s}`, `loss_vlb_{s}`.
  """
  total, metrics = jnp.zeros(()), {}
  alpha, sigma = chain.alpha(t), chain.sigma(t)
  weights = chain.loss_weights(settings.parameterization)
  vlb = jnp.asarray(weights, jnp.float32)[t]
  for s, ratio in enumerate(settings.stage_loss_ratio):
    x = stage_input(
      zs[: s + 1], noises[s], alpha, sigma, settings.noise_mix_ratio
    )
    target = gaussian.target(
      settings.parameterization, zs[s], noises[s][-1], alpha, sigma
    )
    errors = gaussian.error(denoiser(x, t, s), target, settings.loss_type)
    metrics[f'loss_{s}'] = errors.mean()
    metrics[f'loss_vlb_{s}'] = (vlb * errors).mean()
    total += ratio * metrics[f'loss_{s}']
  return total, metrics


def denoiser(
  unet: pyunet.PyUNet,
  params: Any,
  stage: int,
  pool: int = 1,
  parameterization: str = 'eps',
) -> denoiser_lib.Denoiser:
  """Returns the PyU-Net with its weights as the denoiser of one scale.

  Args:
    unet: the network.
    params: its weights.
    stage: the number of the scale, 0 = coarsest.
    pool: by which factor the finished scale is average-pooled to its own grid
      (the official layout diffuses coarse scales on the fine grid).
    parameterization: 'eps', 'x0' or 'v'.
  """

  def call(variables, x, time, inputs, coarse, **kwargs):
    x = jnp.concatenate([*coarse, x], axis=-1)
    t = jnp.full(x.shape[:1], time)
    return unet.apply(variables, x, t, inputs.context, stage=stage, **kwargs)

  def coarse(zs, grid):
    return {'coarse': [resampling.nearest(z, grid) for z in zs]}

  def finish(x, x0):
    del x0
    return resampling.average_pool(x, pool) if pool > 1 else x

  return denoiser_lib.Denoiser(
    call=call,
    params=params,
    predict=denoiser_lib.from_output(parameterization),
    coarse=coarse,
    finish=finish,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frido(sampled.OnChain):
  """The system; see the module docstring and `systems.system.Generative`."""

  space: spaces.Latents
  unet: pyunet.PyUNet
  loss: LossSettings
  native_scales: bool  # diffuse each scale at its own resolution

  @property
  def stage_count(self) -> int:
    return len(self.space.scale_channels)

  def state_shape(self, shape: BHW, stage: int = 0) -> sampled.Shape:
    count, height, width = shape
    coarser = self.stage_count - 1 - stage if self.native_scales else 0
    f = self.space.factor * 2**coarser
    return count, height // f, width // f, self.space.scale_channels[stage]

  def scale_shape(self, stage: int) -> tuple[int, int]:
    # Coarse scales are pooled to their own grid, wherever they are diffused.
    side = self.image_size // self.space.factor
    return (side // 2 ** (self.stage_count - 1 - stage),) * 2

  def _on_grids(self, zs: list[jax.Array]) -> list[jax.Array]:
    """Returns latents at the grids where they are diffused."""
    if self.native_scales:
      return zs
    _, height, width, _ = zs[-1].shape
    return [resampling.nearest(z, (height, width)) for z in zs]

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    keys = jax.random.split(key)
    size, last = self.image_size, self.stage_count - 1
    grid = self.state_shape((1, size, size), last)[:3]
    x = jnp.zeros((*grid, sum(self.space.scale_channels)))
    params, inputs = self.init_condition(keys[1])
    params['unet'] = self.unet.init(
      keys[0], x, jnp.zeros((1,)), inputs.context, stage=last
    )['params']
    return {'generator': params}, self.space.extra()

  def latent_key(self, key: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, 3)

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    del step
    raw = self.space.training(weights, batch, self.latent_key(key))
    zs = self._on_grids(raw)
    time_key, drop_key, noise_key = jax.random.split(key, 3)
    t = jax.random.randint(time_key, raw[0].shape[:1], 0, self.chain.length)
    noises = [
      [
        jax.random.normal(
          jax.random.fold_in(noise_key, s * self.stage_count + j), z.shape
        )
        for j, z in enumerate(zs[: s + 1])
      ]
      for s in range(self.stage_count)
    ]
    context = self.training_inputs(weights, drop_key, batch).context
    unet = weights.params['generator']['unet']
    loss, metrics = diffusion_loss(
      lambda x, t, s: params_lib.apply(self.unet, unet, x, t, context, stage=s),
      self.chain,
      self.loss,
      zs,
      t,
      noises,
    )
    return {'generator': (loss, metrics)}, weights.extra

  def denoiser(self, params: Any, stage: int) -> denoiser_lib.Denoiser:
    pool = 1 if self.native_scales else 2 ** (self.stage_count - 1 - stage)
    parameterization = self.loss.parameterization
    return denoiser(self.unet, params['unet'], stage, pool, parameterization)

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    return self._on_grids(self.space.states(weights, image))

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    zs = list(state)
    b, h, w, _ = zs[-1].shape
    for s in range(len(zs), self.stage_count):  # not sampled yet: the mean, 0
      h, w = 2 * h, 2 * w
      zs.append(jnp.zeros((b, h, w, self.space.scale_channels[s])))
    return self.space.decode(weights, zs)


def create(config: ConfigDict) -> Frido:
  """Builds the system; raises ValueError for fields that do not fit."""
  space = spaces.latents(config)
  common = sampled.chain_fields(config, space)
  widths = common['encoder'].widths
  network = config.first_stage.system.network
  fields_lib.check_value(
    'first_stage.system.network', network, ('msvqgan',), ' for frido'
  )
  if widths.concat or widths.classes:
    c = config.condition
    raise ValueError(
      f'config.condition.task {c.task!r} with config.condition.also {c.also!r}'
      ' is not served by frido, which takes tokens'
    )
  embed = space.scale_channels
  d = config.diffusion
  if len(d.stage_loss_ratio) != len(embed):
    raise ValueError(
      f'config.diffusion.stage_loss_ratio has {len(d.stage_loss_ratio)}'
      f' values, must have one for each of the {len(embed)} scales'
    )
  sampled.check_fixed_variance(config)
  return Frido(
    **common,
    unet=pyunet.PyUNet(
      **sampled.network_fields(config),
      scan_blocks=config.scan_blocks,
      split_embed_dim_list=embed,
      num_stage=len(embed),
      context_dim=widths.context or None,
    ),
    loss=LossSettings(
      loss_type=d.loss_type,
      noise_mix_ratio=d.noise_mix_ratio,
      stage_loss_ratio=tuple(d.stage_loss_ratio),
      parameterization=d.parameterization,
    ),
    native_scales=d.native_scales,
  )
