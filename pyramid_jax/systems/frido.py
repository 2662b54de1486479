"""Frido (arXiv:2208.13753): feature pyramid diffusion, coarse to fine.

The scales of a multi-scale VQGAN are diffused one after the other by one
PyU-Net that is told the scale; finished scales gate its norms. Every scale is
trained at every step. Matches davidhalladay/Frido: frido/models/diffusion/
{frido,ddim,plms}.py in the official layout, where all scales live on the grid
of the finest; `native_scales` diffuses each at its own resolution.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import prediction as prediction_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pyunet
from pyramid_jax.networks.layers import resampling
from pyramid_jax.networks.layers import transformer
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import latent
from pyramid_jax.systems import measuring
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights
Context = transformer.Context
Shape = latent.Shape

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
  ),
  'diffusion.native_scales': Field(
    False,
    'Whether each scale is diffused at its own resolution, instead of on the'
    ' grid of the finest.',
  ),
}
CHECKS = fields_lib.GENERATIVE_CHECKS


def network_class(values: Mapping[str, Any]) -> type:
  """Returns the class whose constructor fields are `config.network`."""
  del values
  return pyunet.PyUNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
  """How the training loss is formed.

  Attributes:
    loss_type: 'l1' or 'l2'.
    noise_mix_ratio: share of noise in the known coarser scales.
    stage_loss_ratio: the weight of each scale, coarse first.
    parameterization: what the network predicts: 'eps', 'x0' or 'v'.
  """

  loss_type: str
  noise_mix_ratio: float
  stage_loss_ratio: tuple[float, ...]
  parameterization: str = 'eps'

  def __post_init__(self):
    gaussian.check_parameterization(self.parameterization)


def stage_input(
  zs: Sequence[jax.Array],
  noises: Sequence[jax.Array],
  alpha: jax.Array,
  sigma: jax.Array,
  mix_ratio: float,
) -> jax.Array:
  """Returns the network's input at stage len(zs) - 1 of training.

  Args:
    zs: clean scales 0..s, coarse first, (B, H_j, W_j, C_j).
    noises: standard normals of the same shapes.
    alpha: (B,) of the drawn noise level.
    sigma: (B,).
    mix_ratio: noise augmentation of the scales before the last.

  Returns:
    (B, H_s, W_s, C_0 + ... + C_s): the mixed coarser scales, upsampled to the
    grid of scale s, and the noisy scale s.
  """
  *coarse, z = zs
  _, height, width, _ = z.shape
  known = [
    resampling.nearest(gaussian.mix_noise(c, n, mix_ratio), (height, width))
    for c, n in zip(coarse, noises[:-1], strict=True)
  ]
  noisy = gaussian.q_sample(z, noises[-1], alpha, sigma)
  return jnp.concatenate([*known, noisy], axis=-1)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleDenoiser:
  """The PyU-Net with its weights, as the stage of a scale calls it.

  Attributes:
    unet: the network.
    params: its weights.
    parameterization: what it predicts: 'eps', 'x0' or 'v'.
    cached: compute gates, keys and values once per image instead of once per
      step (the same numbers).
  """

  unet: pyunet.PyUNet
  params: Any
  parameterization: str = 'eps'
  cached: bool = True

  def stage(
    self,
    index: int,
    levels: levels_lib.Levels,
    context: Context | None,
    shape: Shape,
    pool: int,
  ) -> sampling.Stage:
    """Builds one scale: noise in, the finished scale at its own grid out.

    Args:
      index: of the scale, 0 is the coarsest.
      levels: noise levels of the solver.
      context: (B, L, D) condition tokens, perhaps with places, or None.
      shape: (B, H, W, C) at which the scale is diffused.
      pool: by which factor the finished scale is average-pooled.
    """

    def call(variables, x, time, known, **kwargs):
      x = jnp.concatenate([*known, x], axis=-1)
      t = jnp.full(x.shape[:1], time)
      return self.unet.apply(variables, x, t, context, stage=index, **kwargs)

    def enter(state, normal):
      known = [resampling.nearest(z, shape[1:3]) for z in state]
      x = normal(shape)
      variables = {'params': self.params}
      if self.cached:
        variables = latent.with_cache(
          self.params,
          lambda variables, **kwargs: call(variables, x, 0.0, known, **kwargs),
        )
      return x, (known, variables)

    def denoise(x, level, context, first=True, features=()):
      del first
      known, variables = context
      out = call(variables, x, level.time, known, features=features)
      value, found = out if features else (out, {})
      return prediction_lib.Prediction.of(
        self.parameterization, x, value, level
      ).replace(features=found)

    def leave(state, x, x0, context):
      del x0, context
      return [*state, resampling.average_pool(x, pool) if pool > 1 else x]

    segment = sampling.Segment(levels=levels, denoise=denoise)
    return sampling.Stage(segments=(segment,), enter=enter, leave=leave)


def make_stages(
  denoiser: ScaleDenoiser,
  levels: Sequence[levels_lib.Levels],
  condition: condition_lib.Condition,
  shapes: Sequence[Shape],
  pools: Sequence[int],
  guidance: classifier_free.Guidance | None = None,
) -> list[sampling.Stage]:
  """Builds the stages of a sampling run.

  Args:
    denoiser: the network with its weights.
    levels: noise levels of each scale.
    condition: of B images, of which the network takes the tokens, and the null
      condition, which guidance needs.
    shapes: (B, H, W, C) at which each scale is diffused.
    pools: by which factor each finished scale is average-pooled to its own
      grid (the official layout diffuses coarse scales on the fine grid).
    guidance: classifier-free guidance, None for none.

  Returns:
    Stages, coarse first.
  """
  stages = []
  for s, shape in enumerate(shapes):

    def build(inputs, shape, s=s):
      return denoiser.stage(s, levels[s], inputs.context, shape, pools[s])

    of_stage = None if guidance is None else guidance.of_stage(s)
    stages.append(
      classifier_free.guided_stage(
        build, shape, condition.context, condition.null, of_stage
      )
    )
  return stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frido(latent.LatentSystem):
  """The system; see the module docstring and `systems.system.Generative`.

  Attributes, beside those of `latent.LatentSystem`:
    unet: the denoiser.
    loss: how the loss is formed.
    native_scales: diffuse each scale at its own resolution.
  """

  unet: pyunet.PyUNet
  loss: LossSettings
  native_scales: bool

  @property
  def scales(self) -> int:
    return len(self.latent_channels)

  @property
  def stage_count(self) -> int:
    return self.scales

  def _grids(self, height: int, width: int) -> list[tuple[int, int]]:
    """The (H, W) at which each scale is diffused, coarse first."""
    fine = self.first_stage.factor
    grids = []
    for s in range(self.scales):
      f = fine * 2 ** (self.scales - 1 - s) if self.native_scales else fine
      grids.append((height // f, width // f))
    return grids

  def on_grids(self, zs: list[jax.Array]) -> list[jax.Array]:
    if self.native_scales:
      return zs
    _, height, width, _ = zs[-1].shape
    return [resampling.nearest(z, (height, width)) for z in zs]

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    del batch  # all shapes are known
    keys = jax.random.split(key)
    size = self.image_size
    h, w = self._grids(size, size)[-1]
    x = jnp.zeros((1, h, w, sum(self.latent_channels)))
    tree, inputs = self.init_condition(keys[1])
    params = {'condition': tree} if tree else {}
    params['unet'] = self.unet.init(
      keys[0], x, jnp.zeros((1,)), inputs.context, stage=self.scales - 1
    )['params']
    extra = {'latent_scale': jnp.ones((self.scales,))}
    return {'generator': params}, extra

  def measure(
    self,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    over: measuring.OverBatch,
  ) -> Params:
    # Once, on the first batch, as frido.py `on_train_batch_start`.
    return {
      **extra,
      'latent_scale': self.measured_scale(
        frozen, jax.random.fold_in(key, 3), over
      ),
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
    # A key of its own: `key` is split below.
    own = jax.random.fold_in(key, 3)
    normal = functools.partial(jax.random.normal, own)
    raw = self.batch_latents(frozen, batch, normal)
    scale = extra['latent_scale']
    zs = self.on_grids([z * scale[s] for s, z in enumerate(raw)])
    time_key, drop_key, noise_key = jax.random.split(key, 3)
    t = jax.random.randint(time_key, raw[0].shape[:1], 0, self.chain.length)
    noises = [
      [
        jax.random.normal(
          jax.random.fold_in(noise_key, s * self.scales + j), z.shape
        )
        for j, z in enumerate(zs[: s + 1])
      ]
      for s in range(self.scales)
    ]
    context = self.training_context(params, frozen, drop_key, batch).context
    unet = params['generator']['unet']
    loss, metrics = diffusion_loss(
      lambda x, t, s: params_lib.apply(self.unet, unet, x, t, context, stage=s),
      self.chain,
      self.loss,
      zs,
      t,
      noises,
    )
    return {'generator': (loss, metrics)}, extra

  def stages(
    self,
    weights: Weights,
    condition: condition_lib.Condition,
    shape: tuple[int, int, int],
    spec: spec_lib.SamplerSpec,
    cached: bool = True,
  ) -> list[sampling.Stage]:
    b, height, width = shape
    channels = self.latent_channels
    grids = self._grids(height, width)
    last = self.scales - 1
    return make_stages(
      ScaleDenoiser(
        unet=self.unet,
        params=weights.params['generator']['unet'],
        parameterization=self.loss.parameterization,
        cached=cached,
      ),
      spec.chain_levels(self.chain, self.scales),
      condition,
      [(b, *grid, channels[s]) for s, grid in enumerate(grids)],
      [1 if self.native_scales else 2 ** (last - s) for s in range(last + 1)],
      spec.guidance,
    )

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    zs = list(state)
    b, h, w, _ = zs[-1].shape
    for s in range(len(zs), self.scales):  # not sampled yet: the mean, 0
      h, w = 2 * h, 2 * w
      zs.append(jnp.zeros((b, h, w, self.latent_channels[s])))
    return self.decode_scaled(weights, zs)


def create(config: ConfigDict) -> Frido:
  """Builds the system of a config.

  Raises:
    ValueError: a field that does not fit the others; see the message.
  """
  common = latent.fields(config)
  first_stage, widths = common['first_stage'], common['encoder'].widths
  if config.first_stage.system.network != 'msvqgan':
    raise ValueError(
      f'config.first_stage.system.network is'
      f" {config.first_stage.system.network!r}, must be 'msvqgan' for frido"
    )
  if widths.concat or widths.classes:
    raise ValueError(
      f'config.condition.task {config.condition.task!r} with'
      f' config.condition.also {config.condition.also!r} is not served by'
      ' frido, which takes tokens'
    )
  embed = first_stage.latent_channels
  d = config.diffusion
  if len(d.stage_loss_ratio) != len(embed):
    raise ValueError(
      f'config.diffusion.stage_loss_ratio has {len(d.stage_loss_ratio)}'
      f' values, must have one for each of the {len(embed)} scales'
    )
  latent.check_fixed_variance(config)
  return Frido(
    **common,
    unet=pyunet.PyUNet(
      **config.network.to_dict(),
      split_embed_dim_list=embed,
      num_stage=len(embed),
      context_dim=widths.context or None,
      dtype=jnp.dtype(config.dtype),
      remat=config.remat,
      attention=config.attention,
    ),
    loss=LossSettings(
      loss_type=d.loss_type,
      noise_mix_ratio=d.noise_mix_ratio,
      stage_loss_ratio=tuple(d.stage_loss_ratio),
      parameterization=d.parameterization,
    ),
    native_scales=d.native_scales,
  )
