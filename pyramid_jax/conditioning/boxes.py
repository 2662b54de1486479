"""Layouts as one placed token for every labelled box."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoder
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import text_encoders


Batch = encoder.Batch
Inputs = encoder.Inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxesEncoder(encoder.Encoder):
  """A layout encoder of this project; the null condition is no object.

  Attributes:
    network: the transformer on boxes and labels.
  """

  network: text_encoders.BoxEncoder

  @property
  def widths(self) -> encoder.Widths:
    return encoder.Widths(context=self.network.dim)

  @property
  def example(self) -> Batch:
    return {
      'boxes': jnp.zeros((1, 1, 4)),
      'labels': jnp.zeros((1, 1), jnp.int32),
      'n_boxes': jnp.zeros((1,), jnp.int32),
    }

  @property
  def unpublished(self) -> str:
    return "config.condition.encoder is 'boxes'"

  def init(self, key: jax.Array) -> Any:
    return self.network.init(key, *self.example.values())['params']

  def encode(self, params: Any, batch: Batch) -> Inputs:
    return self._embedded(
      params, batch['boxes'], batch['labels'], batch['n_boxes']
    )

  def null(self, params: Any, batch: Batch) -> Inputs:
    return self._embedded(
      params,
      jnp.zeros_like(batch['boxes']),
      jnp.zeros_like(batch['labels']),
      jnp.zeros_like(batch['n_boxes']),
    )

  def _embedded(self, params: Any, *objects: jax.Array) -> Inputs:
    return Inputs(context=params_lib.apply(self.network, params, *objects))


def create(
  config: ConfigDict, first_stage: first_stages.Network | None
) -> BoxesEncoder:
  """Builds the encoder of `config.condition.encoder` 'boxes'.

  Raises:
    ValueError: a task other than 'layout'.
  """
  del first_stage
  c = config.condition
  if c.task != 'layout':
    raise ValueError(
      "config.condition.encoder 'boxes' serves the task 'layout',"
      f' not {c.task!r}'
    )
  network = text_encoders.BoxEncoder(
    dim=c.dim,
    depth=c.depth,
    heads=c.heads,
    head_dim=c.head_dim,
    num_labels=c.num_labels,
    dtype=jnp.dtype(config.dtype),
  )
  return BoxesEncoder(network=network)
