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
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pyunet
from pyramid_jax.networks.layers import resampling
from pyramid_jax.networks.layers import transformer
from pyramid_jax.systems import latent
from pyramid_jax.systems import measuring
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights
Context = transformer.Context

# (x, t, stage) -> predicted noise of the stage's scale
Denoiser = Callable[[jax.Array, jax.Array, int], jax.Array]


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


def make_stages(
  unet: pyunet.PyUNet,
  params: Any,
  chain: schedules.Chain,
  solver: solvers.Solver,
  *,
  context: Context | None,
  null: Context | None,
  scale: float,
  interval: Sequence[float] = (),
  channels: int | None = None,
  power: float | None = None,
  steps: Sequence[int],
  shapes: Sequence[tuple[int, int, int, int]],
  pools: Sequence[int],
  parameterization: str = 'eps',
  cached: bool = True,
) -> list[sampling.Stage]:
  """Builds the stages of a sampling run.

  Args:
    unet: the denoiser.
    params: its weights.
    chain: the training chain.
    solver: decides the levels.
    context: (B, L, D) condition tokens, perhaps with places, or None.
    null: the null tokens, used when `scale` is not 1.
    scale: classifier-free guidance, 1 = none.
    interval: where it acts, see `guidance.classifier_free`.
    channels: of each scale that it acts on, likewise.
    power: how it grows, likewise.
    steps: solver steps of each scale.
    shapes: (B, H, W, C) at which each scale is diffused.
    pools: by which factor each finished scale is average-pooled to its own
      grid (the official layout diffuses coarse scales on the fine grid).
    parameterization: what the network predicts: 'eps', 'x0' or 'v'.
    cached: compute gates, keys and values once per image instead of once per
      step (the same numbers).

  Returns:
    Stages, coarse first.
  """
  stages = []
  for s, shape in enumerate(shapes):

    def build(context, shape, s=s):
      return _stage(
        unet,
        params,
        solver.levels(chain, steps[s]),
        index=s,
        context=context,
        shape=shape,
        pool=pools[s],
        parameterization=parameterization,
        cached=cached,
      )

    stages.append(
      conditioning.guided_stage(
        build, shape, context, null, scale, interval, channels, power
      )
    )
  return stages


def _stage(
  unet: pyunet.PyUNet,
  params: Any,
  levels: schedules.Levels,
  *,
  index: int,
  context: Context | None,
  shape: tuple[int, int, int, int],
  pool: int,
  parameterization: str,
  cached: bool,
) -> sampling.Stage:
  """One scale: noise in, the finished scale at its own grid out."""

  def call(variables, x, time, known, **kwargs):
    x = jnp.concatenate([*known, x], axis=-1)
    t = jnp.full(x.shape[:1], time)
    return unet.apply(variables, x, t, context, stage=index, **kwargs)

  def enter(state, normal):
    known = [resampling.nearest(z, shape[1:3]) for z in state]
    x = normal(shape)
    variables = {'params': params}
    if cached:
      variables = latent.with_cache(
        params,
        lambda variables, **kwargs: call(variables, x, 0.0, known, **kwargs),
      )
    return x, (known, variables)

  def denoise(x, level, context, first=True, taps=()):
    del first
    known, variables = context
    out = call(variables, x, level.time, known, taps=taps)
    value, found = out if taps else (out, {})
    prediction = solvers.Prediction.of(parameterization, x, value, level)
    return prediction.replace(taps=found)

  def leave(state, x, x0, context):
    del x0, context
    return [*state, resampling.average_pool(x, pool) if pool > 1 else x]

  return sampling.Stage(spans=((levels, denoise),), enter=enter, leave=leave)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frido(latent.LatentSystem):
  """The system; see the module docstring and `systems.system.System`.

  Attributes, beside those of `latent.LatentSystem`:
    unet: the denoiser.
    loss: how the loss is formed.
    native_scales: diffuse each scale at its own resolution.
    steps: solver steps of each scale.
  """

  unet: pyunet.PyUNet
  loss: LossSettings
  native_scales: bool
  steps: tuple[int, ...]

  @property
  def scales(self) -> int:
    return len(self.latent_channels)

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
    return {**extra, 'latent_scale': self.measured_scale(frozen, key, over)}

  def losses(
    self,
    params: Params,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    step: jax.Array,
    batch: Batch,
  ) -> tuple[Mapping[str, tuple[jax.Array, Any]], Params]:
    normal = functools.partial(jax.random.normal, key)
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
    cached: bool = True,
  ) -> list[sampling.Stage]:
    b, height, width = shape
    channels = self.latent_channels
    grids = self._grids(height, width)
    last = self.scales - 1
    return make_stages(
      self.unet,
      weights.params['generator']['unet'],
      self.chain,
      self.solver,
      context=condition.context.context,
      null=None if condition.null is None else condition.null.context,
      scale=self.guidance,
      interval=self.guidance_interval,
      channels=self.guidance_channels,
      power=self.guidance_power,
      steps=self.steps,
      shapes=[(b, *grid, channels[s]) for s, grid in enumerate(grids)],
      pools=[
        1 if self.native_scales else 2 ** (last - s) for s in range(last + 1)
      ],
      parameterization=self.loss.parameterization,
      cached=cached,
    )

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    zs = list(state)
    b, h, w, _ = zs[-1].shape
    for s in range(len(zs), self.scales):  # not sampled yet: the mean, 0
      h, w = 2 * h, 2 * w
      zs.append(jnp.zeros((b, h, w, self.latent_channels[s])))
    return self.decode_scaled(weights, zs)

  def preview(
    self, weights: Weights, key: jax.Array, batch: Batch
  ) -> jax.Array:
    return system_lib.sample_batch(self, weights, key, batch)


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
  steps = _steps_per_scale(config.sample.steps, len(embed))
  for count in steps:  # refuses a bad count before anything is built
    common['solver'].levels(common['chain'], count)
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
    steps=steps,
  )


def _steps_per_scale(
  steps: int | Sequence[int], scales: int
) -> tuple[int, ...]:
  counts = (steps,) * scales if isinstance(steps, int) else tuple(steps)
  if len(counts) != scales:
    raise ValueError(
      f'config.sample.steps has {len(counts)} values, must be one number or'
      f' one for each of the {scales} scales'
    )
  return counts
