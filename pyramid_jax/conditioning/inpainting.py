"""Images with holes as channels that are concatenated with the state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoder
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks.layers import resampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoleEncoder(encoder.Encoder):
  """An image with a black hole, and where the hole is, for models of images.

  Attributes:
    image_size: px of the image in the example.
  """

  image_size: int

  @property
  def widths(self) -> encoder.Widths:
    return encoder.Widths(concat=4)

  @property
  def example(self) -> encoder.Batch:
    size = self.image_size
    return {
      'image': jnp.zeros((1, size, size, 3)),
      'inpaint_mask': jnp.zeros((1, size, size), jnp.uint8),
    }

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    del params
    known, hole = _known(batch)
    where = 2.0 * hole.astype(jnp.float32) - 1.0
    return encoder.Inputs(concat=jnp.concatenate([known, where], axis=-1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InpaintingEncoder(HoleEncoder):
  """An image with a hole, encoded by the first stage, and where the hole is.

  CompVis/latent-diffusion: scripts/inpaint.py. The hole is -1 (black) before
  encoding; the latent is the mean of its distribution and not scaled; the mask
  takes the nearest pixel, -1 where the image is known and 1 in the hole.

  Attributes:
    first_stage: the first stage of the system, with its weights.
  """

  first_stage: first_stages.Network

  pretrained_name = 'first_stage'

  @property
  def widths(self) -> encoder.Widths:
    (channels,) = self.first_stage.latent_channels
    return encoder.Widths(concat=channels + 1)

  def init(self, key: jax.Array) -> Any:
    return self.first_stage.init(key, self.example['image'])['params']

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    known, hole = _known(batch)
    (z,) = params_lib.apply(self.first_stage, params, known, method='encode')
    where = resampling.nearest(hole.astype(jnp.float32), z.shape[1:3])
    return encoder.Inputs(
      concat=jnp.concatenate([z, 2.0 * where - 1.0], axis=-1)
    )


def _known(batch: encoder.Batch) -> tuple[jax.Array, jax.Array]:
  """Returns images with black holes, and (B, H, W, 1) where the holes are.

  Raises:
    ValueError: a mask of another shape than its image.
  """
  image, mask = batch['image'], batch['inpaint_mask']
  if mask.shape != image.shape[:3]:
    raise ValueError(
      f'the mask has shape {mask.shape}, must be {image.shape[:3]} as the'
      ' image has it'
    )
  hole = mask[..., None] > 0
  return jnp.where(hole, -1.0, image), hole


def create(config: ConfigDict, first_stage: encoder.FirstStage) -> HoleEncoder:
  """Builds the encoder of the task 'inpaint'.

  Raises:
    ValueError: a Laplacian process on images, whose stages have other grids.
  """
  size = config.data.image_size
  if first_stage is None and 'laplacian' not in config:
    return HoleEncoder(image_size=size)
  first_stage = encoder.needed(config, first_stage)
  return InpaintingEncoder(first_stage=first_stage, image_size=size)
