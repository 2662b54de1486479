"""Where a process takes place: in images or in latents of a first stage."""

from collections.abc import Mapping
import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.networks import pretrained
from pyramid_jax.systems import latent
from pyramid_jax.systems import measuring
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights


class Space(Protocol):
  """What a system must know of the states that it diffuses."""

  @property
  def channels(self) -> int:
    """Of a state."""

  @property
  def has_latents(self) -> bool:
    """Whether states are latents."""

  @property
  def factor(self) -> int:
    """Pixels of a side of an image for one of a state."""

  def frozen_parts(self) -> Mapping[str, pretrained.FrozenPart]:
    """Returns the weights that it needs."""

  def extra(self) -> Params:
    """Returns the untrained state before the first step."""

  def measured(
    self,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    over: measuring.OverBatch,
  ) -> Params:
    """Returns `extra` as `measuring.Measuring.measure` does."""

  def training(
    self, frozen: Params, extra: Params, batch: Batch, key: jax.Array
  ) -> jax.Array:
    """Returns the clean states (B, h, w, C) of a batch."""

  def raw(self, frozen: Params, image: jax.Array) -> jax.Array:
    """Returns the unscaled states of images (B, H, W, 3)."""

  def states(self, weights: Weights, image: jax.Array) -> jax.Array:
    """Returns the clean states of images."""

  def decode(self, weights: Weights, state: jax.Array) -> jax.Array:
    """Returns images in [-1, 1]."""


@dataclasses.dataclass(frozen=True)
class Pixels:
  """Images themselves; see `Space`."""

  channels: int = 3
  factor: int = 1
  has_latents: bool = False

  def frozen_parts(self) -> Mapping[str, pretrained.FrozenPart]:
    return {}

  def extra(self) -> Params:
    return {}

  def measured(
    self,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    over: measuring.OverBatch,
  ) -> Params:
    del frozen, key, over
    return extra

  def training(
    self, frozen: Params, extra: Params, batch: Batch, key: jax.Array
  ) -> jax.Array:
    del frozen, extra, key
    return batch['image']

  def raw(self, frozen: Params, image: jax.Array) -> jax.Array:
    del frozen
    return image

  def states(self, weights: Weights, image: jax.Array) -> jax.Array:
    del weights
    return image

  def decode(self, weights: Weights, state: jax.Array) -> jax.Array:
    del weights
    return jnp.clip(state.astype(jnp.float32), -1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Latents:
  """The scaled latents of a first stage of one scale; see `Space`."""

  latents: latent.OneLatent
  has_latents: bool = True

  @property
  def channels(self) -> int:
    return self.latents.latent_channels[0]

  @property
  def factor(self) -> int:
    size = self.latents.image_size
    return size // self.latents.latent_shape(1, size, size)[1]

  def frozen_parts(self) -> Mapping[str, pretrained.FrozenPart]:
    return self.latents.frozen_parts()

  def extra(self) -> Params:
    return self.latents.initial_scale()

  def measured(
    self,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    over: measuring.OverBatch,
  ) -> Params:
    return self.latents.measured(frozen, extra, key, over)

  def training(
    self, frozen: Params, extra: Params, batch: Batch, key: jax.Array
  ) -> jax.Array:
    return self.latents.scaled_latents(frozen, extra, batch, key)

  def raw(self, frozen: Params, image: jax.Array) -> jax.Array:
    return self.latents.latents(frozen, image)[0]

  def states(self, weights: Weights, image: jax.Array) -> jax.Array:
    scale = weights.extra['latent_scale']
    return self.raw(weights.frozen, image) * scale[0]

  def decode(self, weights: Weights, state: jax.Array) -> jax.Array:
    return self.latents.decode_scaled(weights, [state])


def create(config: ConfigDict, in_latents: bool) -> Space:
  """Returns the space of a config.

  Raises:
    ValueError: a first stage that does not serve.
  """
  if not in_latents:
    return Pixels()
  return Latents(
    latent.OneLatent(
      **latent.space_fields(config), **latent.scale_fields(config)
    )
  )
