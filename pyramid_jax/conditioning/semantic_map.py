"""Semantic maps as channels that are concatenated with the latent's."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoder
from pyramid_jax.networks import conditioners
from pyramid_jax.networks import params as params_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapEncoder(encoder.Encoder):
  """A semantic map, one-hot, halved to the latent's grid, channels mixed.

  The `SpatialRescaler` of CompVis/latent-diffusion.

  Attributes:
    network: the rescaler.
    classes: the classes of the map, 0 included.
    image_size: px of the map in the example.
  """

  network: conditioners.SpatialRescaler
  classes: int
  image_size: int

  family = 'spatial_rescaler'

  @property
  def widths(self) -> encoder.Widths:
    return encoder.Widths(concat=self.network.out_channels or self.classes)

  @property
  def example(self) -> encoder.Batch:
    size = self.image_size
    return {'mask': jnp.zeros((1, size, size), jnp.uint8)}

  def init(self, key: jax.Array) -> Any:
    return self.network.init(key, self._one_hot(self.example))['params']

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    one_hot = self._one_hot(batch)
    return encoder.Inputs(
      concat=params_lib.apply(self.network, params, one_hot)
    )

  def _one_hot(self, batch: encoder.Batch) -> jax.Array:
    return jax.nn.one_hot(batch['mask'], self.classes, dtype=jnp.float32)


def create(config: ConfigDict, first_stage: encoder.FirstStage) -> MapEncoder:
  """Builds the encoder of the task 'map', for a first stage only."""
  c = config.condition
  factor = encoder.needed(config, first_stage).factor
  return MapEncoder(
    network=conditioners.SpatialRescaler(
      n_stages=int(math.log2(factor)), out_channels=c.map_channels
    ),
    classes=c.map_classes,
    image_size=config.data.image_size,
  )
