"""Conditions that are pictures, given as channels beside the latent's."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax.conditioning import encoders
from pyramid_jax.networks import conditioners
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks.layers import resampling


Batch = Mapping[str, jax.Array]
Inputs = encoders.Inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapEncoder:
  """A semantic map, one-hot, halved to the latent's grid, channels mixed.

  The `SpatialRescaler` of CompVis/latent-diffusion.

  Attributes:
    network: the rescaler.
    classes: of the map, 0 included.
    image_size: px of the map in the example.
  """

  network: conditioners.SpatialRescaler
  classes: int
  image_size: int
  trained: bool = True

  @property
  def widths(self) -> encoders.Widths:
    return encoders.Widths(concat=self.network.out_channels or self.classes)

  @property
  def example(self) -> Batch:
    size = self.image_size
    return {'mask': jnp.zeros((1, size, size), jnp.uint8)}

  def init(self, key: jax.Array) -> Any:
    return self.network.init(key, self._one_hot(self.example))['params']

  def encode(self, params: Any, batch: Batch) -> Inputs:
    one_hot = self._one_hot(batch)
    return Inputs(concat=params_lib.apply(self.network, params, one_hot))

  def null(self, params: Any, batch: Batch) -> Inputs:
    return _zeros(self.encode(params, batch))

  def _one_hot(self, batch: Batch) -> jax.Array:
    return conditioners.one_hot(batch['mask'], self.classes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowResolutionEncoder:
  """The low-resolution picture itself, which has the latent's grid.

  Attributes:
    side: px of the picture in the example.
  """

  side: int
  trained: bool = False

  @property
  def widths(self) -> encoders.Widths:
    return encoders.Widths(concat=3)

  @property
  def example(self) -> Batch:
    return {'lr_image': jnp.zeros((1, self.side, self.side, 3))}

  def init(self, key: jax.Array) -> Any:
    del key
    return {}

  def encode(self, params: Any, batch: Batch) -> Inputs:
    del params
    return Inputs(concat=batch['lr_image'].astype(jnp.float32))

  def null(self, params: Any, batch: Batch) -> Inputs:
    return _zeros(self.encode(params, batch))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoleEncoder:
  """A picture with a hole, encoded by the first stage, and where the hole is.

  CompVis/latent-diffusion: scripts/inpaint.py. The hole is -1 (black) before
  encoding; the latent is the mean of its distribution and not scaled; the mask
  takes the nearest pixel, -1 where the picture is known and 1 in the hole.

  Attributes:
    first_stage: whose weights `params` are.
    image_size: px of the picture in the example.
  """

  first_stage: first_stages.Network
  image_size: int
  trained: bool = False

  @property
  def widths(self) -> encoders.Widths:
    (channels,) = self.first_stage.latent_channels
    return encoders.Widths(concat=channels + 1)

  @property
  def example(self) -> Batch:
    size = self.image_size
    return {
      'image': jnp.zeros((1, size, size, 3)),
      'inpaint_mask': jnp.zeros((1, size, size), jnp.uint8),
    }

  def init(self, key: jax.Array) -> Any:
    return self.first_stage.init(key, self.example['image'])['params']

  def encode(self, params: Any, batch: Batch) -> Inputs:
    image, mask = batch['image'], batch['inpaint_mask']
    if mask.shape != image.shape[:3]:
      raise ValueError(
        f'the mask has shape {mask.shape}, must be {image.shape[:3]} as the'
        ' picture has it'
      )
    hole = mask[..., None] > 0
    (z,) = params_lib.apply(
      self.first_stage, params, jnp.where(hole, -1.0, image), method='encode'
    )
    where = resampling.nearest(hole.astype(jnp.float32), z.shape[1:3])
    return Inputs(concat=jnp.concatenate([z, 2.0 * where - 1.0], axis=-1))

  def null(self, params: Any, batch: Batch) -> Inputs:
    return _zeros(self.encode(params, batch))


def _zeros(inputs: Inputs) -> Inputs:
  return jax.tree.map(jnp.zeros_like, inputs)
