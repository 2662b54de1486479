"""The encodings of texts that were computed beforehand, in place of an encoder.

In training alone: a batch has the tokens themselves, and the only weights are
those of the null condition, which is the encoded empty text. What a pretrained
encoder gives does not depend on training, so nothing else changes.
"""

import dataclasses
from typing import Any
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.conditioning import encoder
from pyramid_jax.conditioning import tokens
from pyramid_jax.networks import pretrained as pretrained_lib
from pyramid_jax.networks.layers import parameters


KEY = 'condition_tokens'  # of the encodings in a batch
IDS = 'condition_ids'  # of what was encoded


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTokens(encoder.Encoder):
  """What takes the place of a pretrained encoder of texts.

  Its weights are {'null': (L, D)}, the encoded empty text.

  Attributes:
    of: the encoder that computed the tokens.
  """

  of: tokens.PretrainedEncoder

  @property
  def widths(self) -> encoder.Widths:
    return self.of.widths

  @property
  def example(self) -> encoder.Batch:
    return {KEY: jnp.zeros((1, *self._shape.shape), self._shape.dtype)}

  @property
  def _shape(self) -> jax.ShapeDtypeStruct:
    return shape_of(self.of)

  def init(self, key: jax.Array) -> Any:
    del key
    return {'null': jnp.zeros(self._shape.shape, self._shape.dtype)}

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    del params
    return encoder.Inputs(context=batch[KEY])

  def null(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    null = jnp.broadcast_to(params['null'], batch[KEY].shape)
    return encoder.Inputs(context=null)

  @property
  def pretrained(self) -> pretrained_lib.PretrainedPart:
    return pretrained_lib.PretrainedPart(
      init=self.init, family='', field='condition.cache'
    )


def shape_of(given: tokens.PretrainedEncoder) -> jax.ShapeDtypeStruct:
  """Returns the shape (L, D) and the element type of the tokens of a text."""

  def encoded(key: jax.Array) -> jax.Array:
    ids = jnp.zeros((1, given.max_length), jnp.int32)
    return given.embedded(given.init(key), ids)

  found = parameters.shapes_of(encoded, jax.random.key(0))
  return jax.ShapeDtypeStruct(found.shape[1:], found.dtype)


def null_ids(given: tokens.PretrainedEncoder) -> np.ndarray:
  """Returns the ids (L,) int32 of the empty text."""
  ids = np.full(given.max_length, given.pad_id, np.int32)
  prefix = given.null_prefix[: given.max_length]
  ids[: len(prefix)] = prefix
  return ids


def text_encoder(given: encoder.Encoder) -> tokens.PretrainedEncoder:
  """Returns the pretrained encoder of texts of a condition.

  Raises:
    ValueError: there is none.
  """
  text = given.pretrained_text
  if text is None:
    raise ValueError(
      "texts are encoded beforehand for config.condition.encoder = 'clip' or"
      " 't5' alone, which are pretrained: others are trained with the system"
    )
  return cast(tokens.PretrainedEncoder, text)


def in_place(given: encoder.Encoder) -> encoder.Encoder:
  """Returns a condition whose pretrained encoder of texts is `StoredTokens`.

  Raises:
    ValueError: there is none.
  """
  return given.with_text(StoredTokens(of=text_encoder(given)))
