"""What the systems share that diffuse the latents of a frozen first stage."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import prediction as prediction_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pretrained
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import measuring
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Shape = tuple[int, int, int, int]
Weights = system_lib.Weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents:
  """The latents of a frozen first stage.

  Attributes:
    first_stage: the autoencoder, frozen.
    first_stage_path: its checkpoint, empty to train it.
    image_size: px of a sample, a multiple of the first stage's factor.
  """

  first_stage: first_stages.Network
  first_stage_path: str
  image_size: int

  @property
  def latent_channels(self) -> tuple[int, ...]:
    """Channels of the latent of each scale, coarse first."""
    return self.first_stage.latent_channels

  def frozen_parts(self) -> Mapping[str, pretrained.FrozenPart]:
    size = self.image_size
    image = jnp.zeros((1, size, size, 3))
    return {
      'first_stage': pretrained.FrozenPart(
        init=lambda key: self.first_stage.init(key, image)['params'],
        family=self.first_stage.family,
        path=self.first_stage_path,
        field='first_stage.checkpoint',
      )
    }

  def latents(
    self, frozen: Params, image: jax.Array, noise: jax.Array | None = None
  ) -> list[jax.Array]:
    """Returns the unquantised, unscaled latents, each at its own grid.

    Args:
      frozen: with the part 'first_stage'.
      image: (B, H, W, 3) in [-1, 1].
      noise: standard normal of the latent's shape, which draws the latent of
        a first stage that has a posterior; None gives the mean.
    """
    zs = params_lib.apply(
      self.first_stage, frozen['first_stage'], image, noise, method='encode'
    )
    return [z.astype(jnp.float32) for z in jax.lax.stop_gradient(zs)]

  def batch_latents(
    self, frozen: Params, batch: Batch, normal: measuring.Normal
  ) -> list[jax.Array]:
    """Returns the latents of a training batch, encoded here or beforehand.

    Args:
      frozen: with the part 'first_stage'.
      batch: has `image`, or `latent_mean_S` of every scale and perhaps
        `latent_std_S` (see `data.latent_cache`).
      normal: draws a latent from its distribution.
    """
    if 'latent_mean_0' not in batch:
      b, height, width, _ = batch['image'].shape
      cell = self.first_stage.factor
      shape = b, height // cell, width // cell, self.latent_channels[-1]
      noise = normal(shape)
      return self.latents(frozen, batch['image'], noise)
    zs = [
      batch[f'latent_mean_{s}'].astype(jnp.float32)
      for s in range(len(self.latent_channels))
    ]
    if 'latent_std_0' not in batch:
      return zs
    noise = normal(zs[0].shape)
    return [zs[0] + batch['latent_std_0'].astype(jnp.float32) * noise]

  def measured_scale(
    self, frozen: Params, key: jax.Array, over: measuring.OverBatch
  ) -> jax.Array:
    """Returns what scales the latents of a batch to a deviation of 1, (S,).

    Args:
      frozen: with the part 'first_stage'.
      key: of what draws a latent from its distribution.
      over: walks over the batch.
    """

    def moments(batch, normal):
      zs = self.batch_latents(frozen, batch, normal)
      return (
        jnp.stack([z.mean() for z in zs]),
        jnp.stack([z.var(ddof=1) for z in zs]),
        jnp.array([z.size for z in zs], jnp.float32),
      )

    return inverse_std(*over(key, moments))

  def decode_scaled(self, weights: Weights, zs: list[jax.Array]) -> jax.Array:
    """Maps latents as they are diffused to images in [-1, 1]."""
    scale = weights.extra['latent_scale']
    zs = [z / scale[s] for s, z in enumerate(zs)]
    tree = weights.frozen['first_stage']
    image = params_lib.apply(self.first_stage, tree, zs, method='decode')
    return jnp.clip(image.astype(jnp.float32), -1.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneLatent(Latents):
  """The latents of a first stage that has one scale.

  Attributes, beside those of `Latents`:
    scale_factor: of the latents, unless it is measured.
    scale_by_std: whether it is measured on the first batch.
  """

  scale_factor: float
  scale_by_std: bool

  def latent_shape(self, count: int, height: int, width: int) -> Shape:
    """Returns the shape of the latents of so many images of a size."""
    f = self.first_stage.factor
    return count, height // f, width // f, self.latent_channels[0]

  def initial_scale(self) -> Params:
    """Returns the untrained state before the first step."""
    return {'latent_scale': jnp.full((1,), self.scale_factor)}

  def measured(
    self,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    over: measuring.OverBatch,
  ) -> Params:
    """Returns `extra` with the measured scale, if it is to be measured.

    Args:
      frozen: with the part 'first_stage'.
      extra: with 'latent_scale'.
      key: of what draws a latent from its distribution.
      over: walks over the batch.
    """
    if not self.scale_by_std:
      return extra
    return {**extra, 'latent_scale': self.measured_scale(frozen, key, over)}

  def scaled_latents(
    self, frozen: Params, extra: Params, batch: Batch, key: jax.Array
  ) -> jax.Array:
    """Returns a training batch as it is diffused, (B, h, w, C).

    Args:
      frozen: with the part 'first_stage'.
      extra: with 'latent_scale', (1,).
      batch: of images or of latents that were encoded beforehand.
      key: of what draws a latent from its distribution.
    """
    normal = functools.partial(jax.random.normal, key)
    (raw,) = self.batch_latents(frozen, batch, normal)
    return raw * extra['latent_scale'][0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentSystem(Latents, system_lib.Sampled):
  """A system on latents, to be derived from; see `systems.system.Generative`.

  Attributes, beside those of `Latents`:
    encoder: of the condition.
    chain: the training chain.
    drop: share of conditions replaced by the null condition in training.
  """

  encoder: conditioning.Encoder
  chain: schedules.Chain
  drop: float

  @property
  def has_latents(self) -> bool:
    return True

  def check_spec(self, spec: spec_lib.SamplerSpec) -> None:
    conditioning.check_guidance(self.encoder, spec.guidance)
    spec.make_solver()
    spec.chain_levels(self.chain, self.stage_count)
    self.check_windows(spec.windows)
    spec.check_scales(self.stage_count)
    spec.check_channels(min(self.latent_channels))

  def check_windows(self, windows: tuple[int, int]) -> None:
    """Refuses windows; systems that have them derive from it."""
    if windows != (0, 0):
      raise ValueError(
        f'config.sample.windows is {windows}, must be (0, 0) for this system'
      )

  def dense_spec(self) -> spec_lib.SamplerSpec:
    return spec_lib.SamplerSpec(solver='ddpm', steps=(self.chain.length,))

  def example_condition(self) -> condition_lib.Condition:
    return conditioning.blank(self.encoder)

  def init_condition(self, key: jax.Array) -> tuple[Any, condition_lib.Inputs]:
    """Returns the encoder's trained weights and a condition of zeros."""
    return conditioning.init(self.encoder, key)

  def frozen_parts(self) -> Mapping[str, pretrained.FrozenPart]:
    return {
      **super().frozen_parts(),
      **conditioning.frozen_parts(self.encoder),
    }

  def training_context(
    self, params: Params, frozen: Params, key: jax.Array, batch: Batch
  ) -> condition_lib.Inputs:
    """Encodes a batch, some of it replaced by the null condition."""
    return conditioning.training_context(
      self.encoder, params['generator'], frozen, self.drop, key, batch
    )

  def ema_patterns(self) -> list[str]:
    # The official EMA leaves a jointly trained encoder out; ours averages all.
    return ['generator/.*']

  def condition(
    self, weights: Weights, batch: Batch
  ) -> condition_lib.Condition:
    tree = self.encoder.weights(weights.params['generator'], weights.frozen)
    return conditioning.condition(self.encoder, tree, batch)

  def on_grids(self, zs: list[jax.Array]) -> list[jax.Array]:
    """Returns latents at the grids where they are diffused."""
    return zs

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    raw = self.latents(weights.frozen, image)
    scale = weights.extra['latent_scale']
    return self.on_grids([z * scale[s] for s, z in enumerate(raw)])

  def edited(
    self,
    weights: Weights,
    stages: list[sampling.Stage],
    edit: system_lib.Edit,
  ) -> list[sampling.Stage]:
    zs = self.states(weights, edit.image)
    return [
      editing.edited(stage, z, edit.mask, edit.strength)
      for stage, z in zip(stages, zs, strict=True)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneLatentSystem(LatentSystem, OneLatent):
  """What the systems share whose first stage has one scale."""

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    return self.decode_scaled(weights, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
  """A network with its weights, as the only stage of a system calls it.

  Attributes:
    call: (variables, x, time, condition, **kwargs of `module.apply`) -> what
      is predicted of (B, h, w, C) at one level () of the whole batch, or at
      levels (B,).
    params: of the network.
    parameterization: what the network predicts: 'eps', 'x0' or 'v'.
    cached: compute what does not depend on the level once per image instead
      of once per step (the same numbers).
  """

  call: Callable[..., Any]
  params: Any
  parameterization: str = 'eps'
  cached: bool = True

  def stage(
    self, levels: levels_lib.Levels, condition: Any, shape: Shape
  ) -> sampling.Stage:
    """Builds the stage of one batch of conditions, without guidance.

    Args:
      levels: of the solver.
      condition: of B images.
      shape: (B, h, w, C) of the latent.
    """

    def enter(state, normal):
      del state
      x = normal(shape)
      variables = {'params': self.params}
      if self.cached:
        variables = with_cache(
          self.params,
          lambda variables, **kwargs: self.call(
            variables, x, jnp.zeros(()), condition, **kwargs
          ),
        )
      return x, variables

    def denoise(x, level, variables, first=True, features=()):
      del first
      out = self.call(variables, x, level.time, condition, features=features)
      value, found = out if features else (out, {})
      return prediction_lib.Prediction.of(
        self.parameterization, x, value, level
      ).replace(features=found)

    def leave(state, x, x0, variables):
      del x0, variables
      return [*state, x]

    segment = sampling.Segment(levels=levels, denoise=denoise)
    return sampling.Stage(segments=(segment,), enter=enter, leave=leave)


def inverse_std(
  means: jax.Array, variances: jax.Array, sizes: jax.Array
) -> jax.Array:
  """Returns what scales values in M equal parts to a deviation of 1, (S,).

  Args:
    means: (M, S) of each part.
    variances: (M, S) of each part, unbiased.
    sizes: (M, S), values of a part.
  """
  parts, size = means.shape[0], sizes[0]
  whole = parts * size - 1.0
  within = variances.mean(0) * (parts * (size - 1.0) / whole)
  between = jnp.square(means - means.mean(0)).sum(0) * (size / whole)
  return 1.0 / jnp.sqrt(within + between)


def with_cache(params: Any, call: Callable[..., Any]) -> dict[str, Any]:
  """Returns variables that hold all that does not depend on the level.

  Args:
    params: of the denoiser.
    call: (variables, mutable=...) -> what `module.apply` returns.
  """
  variables = {'params': params}
  _, kept = call(variables, mutable=['cache'])
  return variables | kept


def space_fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the attributes of `Latents` that a config describes.

  Raises:
    ValueError: an image size that the first stage does not divide.
  """
  first_stage = autoencoder.network(config.first_stage)
  size, coarsest = config.data.image_size, first_stage.coarsest_factor
  if size % coarsest:
    raise ValueError(
      f'config.data.image_size is {size}, must be a multiple of {coarsest},'
      ' the factor of the coarsest scale'
    )
  return {
    'first_stage': first_stage,
    'first_stage_path': config.first_stage.checkpoint,
    'image_size': size,
  }


def scale_fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the attributes of `OneLatent` beside those of `Latents`.

  Raises:
    ValueError: a first stage of several scales.
  """
  first_stage = autoencoder.network(config.first_stage)
  scales = len(first_stage.latent_channels)
  if scales != 1:
    raise ValueError(
      f'the first stage has {scales} scales, must have one for'
      f' {config.system.name}'
    )
  d = config.diffusion
  return {'scale_factor': d.scale_factor, 'scale_by_std': d.scale_by_std}


def fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the attributes of `LatentSystem` that a config describes.

  Raises:
    ValueError: a field that does not fit the others; see the message.
  """
  space = space_fields(config)
  d = config.diffusion
  return {
    **space,
    'encoder': conditioning.create(config, space['first_stage']),
    'chain': schedules.make_chain(
      d.beta_schedule, d.timesteps, d.linear_start, d.linear_end
    ),
    'drop': config.condition.cond_dropout,
  }


def one_latent_fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the attributes of `OneLatentSystem` that a config describes.

  Raises:
    ValueError: a field that does not fit the others; see the message.
  """
  return {**fields(config), **scale_fields(config)}


def check_fixed_variance(config: ConfigDict) -> None:
  """Refuses a learned variance, for networks that predict none.

  Raises:
    ValueError: `config.diffusion.variance` asks for one.
  """
  if config.diffusion.get('variance', '') == 'learned_range':
    raise ValueError(
      "config.diffusion.variance is 'learned_range', but the network of the"
      f' system {config.system.name!r} predicts no variance here'
    )
