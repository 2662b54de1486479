"""The camera of a picture as a condition: a token for every attribute."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax.conditioning import camera
from pyramid_jax.conditioning import encoders


Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraEncoder:
  """Learned tokens of the attributes, each with one for not known.

  Attributes:
    dim: width of a token.
    drop: chance in training that an attribute is forgotten, each on its own.
  """

  dim: int
  drop: float = 0.0
  trained: bool = True

  @property
  def parts(self) -> Mapping[str, encoders.ClassEncoder]:
    """The encoder of every attribute, by its batch key."""
    return {
      name: encoders.ClassEncoder(
        classes=len(values), has_null=True, dim=self.dim, key=name
      )
      for name, values in camera.ATTRIBUTES.items()
    }

  @property
  def widths(self) -> encoders.Widths:
    return encoders.Widths(context=self.dim)

  @property
  def example(self) -> Batch:
    return {name: jnp.ones((1,), jnp.int32) for name in self.parts}

  def init(self, key: jax.Array) -> Any:
    keys = jax.random.split(key, len(self.parts))
    return {
      name: part.init(key)
      for key, (name, part) in zip(keys, self.parts.items(), strict=True)
    }

  def encode(self, params: Any, batch: Batch) -> encoders.Inputs:
    tokens: Any = [
      part.encode(params[name], batch).context
      for name, part in self.parts.items()
    ]
    return encoders.Inputs(context=jnp.concatenate(tokens, axis=1))

  def null(self, params: Any, batch: Batch) -> encoders.Inputs:
    nothing = {name: jnp.zeros_like(batch[name]) for name in self.parts}
    return self.encode(params, nothing)

  def perturbed(self, batch: Batch, key: jax.Array) -> Batch:
    """Returns a training batch in which attributes are forgotten.

    Args:
      batch: with the attributes, (B,) int32 each, 0 = not known.
      key: of the choices.
    """
    keys = jax.random.split(key, len(self.parts))
    forgotten = dict(batch)
    for key, name in zip(keys, self.parts, strict=True):
      drop = jax.random.bernoulli(key, self.drop, batch[name].shape)
      forgotten[name] = jnp.where(drop, 0, batch[name])
    return forgotten
