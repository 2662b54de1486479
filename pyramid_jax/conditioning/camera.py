"""Attributes of the camera of an image: words, ids, and tokens."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import classes
from pyramid_jax.conditioning import encoder


# By batch key, the values in the order of their ids, 1 ...; 0 is not known.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
  'pitch': ('descending', 'eye level', 'ascending'),
  'depth_of_field': ('shallow', 'deep'),
}


def ids(words: Mapping[str, Any]) -> dict[str, int]:
  """Returns the ids of attributes given as {attribute: value, '' or None}.

  The id of a missing attribute is 0; other keys are ignored. An unknown value
  is a ValueError.
  """
  found = {}
  for name, allowed in ATTRIBUTES.items():
    value = words.get(name) or ''
    if value not in ('', *allowed):
      raise ValueError(
        f'{name} is {value!r}, must be one of {", ".join(allowed)}'
      )
    found[name] = 1 + allowed.index(value) if value else 0
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraEncoder(encoder.Encoder):
  """Learned tokens of the attributes, each with one for not known.

  Attributes:
    dim: width of a token.
    cond_dropout: probability in training that an attribute becomes not known,
      independent of the others.
  """

  dim: int
  cond_dropout: float = 0.0

  @property
  def parts(self) -> Mapping[str, classes.ClassEncoder]:
    """The encoder of every attribute, by its batch key."""
    return {
      name: classes.ClassEncoder(
        classes=len(values), has_null=True, dim=self.dim, key=name
      )
      for name, values in ATTRIBUTES.items()
    }

  @property
  def widths(self) -> encoder.Widths:
    return encoder.Widths(context=self.dim)

  @property
  def example(self) -> encoder.Batch:
    return {name: jnp.ones((1,), jnp.int32) for name in ATTRIBUTES}

  def init(self, key: jax.Array) -> Any:
    keys = jax.random.split(key, len(ATTRIBUTES))
    return {
      name: part.init(key)
      for key, (name, part) in zip(keys, self.parts.items(), strict=True)
    }

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    tokens: Any = [
      part.encode(params[name], batch).context
      for name, part in self.parts.items()
    ]
    return encoder.Inputs(context=jnp.concatenate(tokens, axis=1))

  def null(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    nothing = {name: jnp.zeros_like(batch[name]) for name in ATTRIBUTES}
    return self.encode(params, nothing)

  def augmented(self, batch: encoder.Batch, key: jax.Array) -> encoder.Batch:
    kept = dict(batch)
    keys = jax.random.split(key, len(ATTRIBUTES))
    for key, name in zip(keys, ATTRIBUTES, strict=True):
      ids, rate = batch[name], self.cond_dropout
      kept[name] = jnp.where(jax.random.bernoulli(key, rate, ids.shape), 0, ids)
    return kept


def create(config: ConfigDict, _: encoder.FirstStage) -> CameraEncoder:
  """Builds the encoder of `config.condition.also` 'camera'."""
  c = config.condition
  return CameraEncoder(dim=c.dim, cond_dropout=c.camera_dropout)
