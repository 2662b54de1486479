"""Where a process takes place: in images, or in latents of a first stage.

States are lists with one (B, h, w, C) for each scale, coarse first.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.networks import first_stages
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pretrained
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights


@dataclasses.dataclass(frozen=True)
class Pixels:
  """Images themselves, with the methods of `Latents`."""

  channels: int = 3
  factor: int = 1
  has_latents: bool = False
  first_stage: None = None

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    return {}

  def extra(self) -> Params:
    return {}

  def training(
    self, weights: Weights, batch: Batch, key: jax.Array
  ) -> list[jax.Array]:
    del weights, key
    return [batch['image']]

  def encode(self, frozen: Params, image: jax.Array) -> list[jax.Array]:
    del frozen
    return [image]

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    del weights
    return [image]

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    del weights
    return jnp.clip(state[-1].astype(jnp.float32), -1.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents:
  """The scaled latents of a frozen first stage."""

  first_stage: first_stages.Network
  path: str  # its checkpoint, empty to train it in the run's own folder
  image_size: int  # px of a sample in training
  # The scale factor of the latents of each scale, unless it is measured.
  scale_factor: float = 1.0
  # Whether it is one over their deviation in the first batch.
  scale_by_std: bool = True
  has_latents: bool = True

  @property
  def scale_channels(self) -> tuple[int, ...]:
    """The number of channels of each scale, coarse first."""
    return self.first_stage.latent_channels

  @property
  def channels(self) -> int:
    """The number of channels of the finest scale."""
    return self.scale_channels[-1]

  @property
  def factor(self) -> int:
    """The number of pixels along a side of a place of the finest scale."""
    return self.first_stage.factor

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    image = jnp.zeros((1, self.image_size, self.image_size, 3))
    part = pretrained.PretrainedPart(
      init=lambda key: self.first_stage.init(key, image)['params'],
      family=self.first_stage.family,
      path=self.path,
      field='first_stage.checkpoint',
    )
    return {'first_stage': part}

  def extra(self) -> Params:
    """Returns the untrained state before the first step."""
    scales = len(self.scale_channels)
    scale = jnp.full((scales,), self.scale_factor, jnp.float32)
    return {'latent_scale': scale}

  def measured_scale(
    self, frozen: Params, key: jax.Array, over: system_lib.OverBatch
  ) -> jax.Array:
    """Returns the (S,) factors of the scales that make deviations 1."""

    def moments(batch, normal):
      zs = self.batch_latents(frozen, batch, normal)
      return (
        jnp.stack([z.mean() for z in zs]),
        jnp.stack([z.var(ddof=1) for z in zs]),
        jnp.array([z.size for z in zs], jnp.float32),
      )

    return inverse_std(*over(key, moments))

  def encode(
    self, frozen: Params, image: jax.Array, noise: jax.Array | None = None
  ) -> list[jax.Array]:
    """Returns the unquantised, unscaled latents, each at its own grid.

    Args:
      frozen: with the part 'first_stage'.
      image: (B, H, W, 3) in [-1, 1].
      noise: standard normal of the latent's shape, which draws from the
        posterior of a first stage that has one; None gives its mean.
    """
    zs = params_lib.apply(
      self.first_stage, frozen['first_stage'], image, noise, method='encode'
    )
    return [z.astype(jnp.float32) for z in jax.lax.stop_gradient(zs)]

  def batch_latents(
    self,
    frozen: Params,
    batch: Batch,
    normal: Callable[[tuple[int, ...]], jax.Array],
  ) -> list[jax.Array]:
    """Returns the unscaled latents of a batch, encoded here or beforehand.

    Args:
      frozen: with the part 'first_stage'.
      batch: has `image`, or `latent_mean_S` of every scale and perhaps
        `latent_std_S` (see `data.latent_cache`).
      normal: shape -> standard normal, which draws from the posterior.
    """
    if 'latent_mean_0' not in batch:
      (b, height, width, _), f = batch['image'].shape, self.factor
      noise = normal((b, height // f, width // f, self.channels))
      return self.encode(frozen, batch['image'], noise)
    zs = [
      batch[f'latent_mean_{s}'].astype(jnp.float32)
      for s in range(len(self.scale_channels))
    ]
    if 'latent_std_0' not in batch:
      return zs
    noise = normal(zs[0].shape)
    return [zs[0] + batch['latent_std_0'].astype(jnp.float32) * noise]

  def training(
    self, weights: Weights, batch: Batch, key: jax.Array
  ) -> list[jax.Array]:
    """Returns the clean states of a training batch, drawn with a key."""
    normal = functools.partial(jax.random.normal, key)
    zs = self.batch_latents(weights.frozen, batch, normal)
    return [z * weights.extra['latent_scale'][s] for s, z in enumerate(zs)]

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    """Returns the clean states of images (B, H, W, 3) in [-1, 1]."""
    zs = self.encode(weights.frozen, image)
    return [z * weights.extra['latent_scale'][s] for s, z in enumerate(zs)]

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    """Returns the images (B, H, W, 3) in [-1, 1] of states."""
    return jnp.clip(self.decoded(weights, state), -1.0, 1.0)

  def decoded(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    """Returns what the first stage makes of states, which is not clipped."""
    scale = weights.extra['latent_scale']
    zs = [z / scale[s] for s, z in enumerate(state)]
    tree = weights.frozen['first_stage']
    image = params_lib.apply(self.first_stage, tree, zs, method='decode')
    return image.astype(jnp.float32)


Space = Pixels | Latents


def inverse_std(
  means: jax.Array, variances: jax.Array, sizes: jax.Array
) -> jax.Array:
  """Returns the (S,) factors that make the deviation of M equal parts 1.

  Args:
    means: (M, S) of each part.
    variances: (M, S) of each part, unbiased.
    sizes: (M, S), the number of values of a part.
  """
  parts, size = means.shape[0], sizes[0]
  whole = parts * size - 1.0
  within = variances.mean(0) * (parts * (size - 1.0) / whole)
  between = jnp.square(means - means.mean(0)).sum(0) * (size / whole)
  return 1.0 / jnp.sqrt(within + between)


def latents(config: ConfigDict) -> Latents:
  """Returns the latents of `config.first_stage`, whose scale is measured."""
  first_stage = autoencoder.network(config.first_stage).clone(
    attention=config.attention  # that of a frozen part is the run's
  )
  size, coarsest = config.data.image_size, first_stage.coarsest_factor
  reason = ', the factor of the coarsest scale'
  fields_lib.check_multiple('data.image_size', size, coarsest, reason)
  return Latents(
    first_stage=first_stage,
    path=config.first_stage.checkpoint,
    image_size=size,
  )


def one_scale(config: ConfigDict) -> Latents:
  """Returns the latents of a first stage of one scale, scaled by the config.

  Raises:
    ValueError: a first stage of several scales.
  """
  d = config.diffusion
  found = dataclasses.replace(
    latents(config), scale_factor=d.scale_factor, scale_by_std=d.scale_by_std
  )
  scales = len(found.scale_channels)
  if scales != 1:
    raise ValueError(
      f'the first stage has {scales} scales, must have one for'
      f' {config.system.name}'
    )
  return found


def created(config: ConfigDict) -> Space:
  """Returns the latents of the config's first stage; without one, images.

  Raises:
    ValueError: a first stage of several scales.
  """
  return one_scale(config) if 'first_stage' in config else Pixels()
