"""Layouts as one placed token for every labelled box."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoder
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import text_encoders


KEYS = ('boxes', 'labels', 'n_boxes')  # The arrays of a batch.


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxesEncoder(encoder.Encoder):
  """A layout encoder of this project; the null condition is no object.

  Attributes:
    network: the transformer on boxes and labels.
    max_objects: the number of boxes of an example, padding included.
  """

  network: text_encoders.BoxEncoder
  max_objects: int

  unpublished = "config.condition.encoder is 'boxes'"

  @property
  def widths(self) -> encoder.Widths:
    return encoder.Widths(context=self.network.dim)

  @property
  def example(self) -> encoder.Batch:
    count = self.max_objects
    return {
      'boxes': jnp.zeros((1, count, 4)),
      'labels': jnp.zeros((1, count), jnp.int32),
      'n_boxes': jnp.zeros((1,), jnp.int32),
    }

  def init(self, key: jax.Array) -> Any:
    return self.network.init(key, *self.example.values())['params']

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    arrays = (batch[name] for name in KEYS)
    return encoder.Inputs(
      context=params_lib.apply(self.network, params, *arrays)
    )

  def null(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    nothing = {name: jnp.zeros_like(batch[name]) for name in KEYS}
    return self.encode(params, nothing)


def create(config: ConfigDict, _: encoder.FirstStage) -> BoxesEncoder:
  """Builds the encoder of `config.condition.encoder` 'boxes', of layouts."""
  c = config.condition
  if c.task != 'layout':
    raise ValueError(
      "config.condition.encoder 'boxes' serves the task 'layout',"
      f' not {c.task!r}'
    )
  names = ('dim', 'depth', 'heads', 'head_dim', 'num_labels')
  network = text_encoders.BoxEncoder(
    **{name: c[name] for name in names},
    dtype=jnp.dtype(config.dtype),
    attention=config.attention,
    scan_blocks=config.scan_blocks,
  )
  return BoxesEncoder(network=network, max_objects=config.data.max_objects)
