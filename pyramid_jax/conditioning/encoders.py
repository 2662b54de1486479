"""Condition encoders that give tokens: texts, sequences, boxes, classes."""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import laplacian_loss
from pyramid_jax.networks import conditioners
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import t5
from pyramid_jax.networks import text_encoders
from pyramid_jax.networks.layers import transformer


Batch = Mapping[str, jax.Array]
Context = transformer.Context


@flax.struct.dataclass
class Inputs:
  """What a U-Net is told beside the noise level.

  Attributes:
    context: tokens (B, L, D) that are attended to, perhaps with places.
    concat: (B, h, w, C) channels beside the latent's, on its grid.
    y: (B,) class ids that are embedded with the noise level.
    control: the maps (B, h, w, C) of a ControlNet, of every stage.
    concat_noise: (B,) logarithm of the deviation of the noise on `concat`,
      which is embedded with the noise level too.
    aspect: (B, 2) logarithms of an image's height and width over those of the
      square of training, likewise; None where all images are such squares.
    prior: what is known of the image itself, for `laplacian_loss`.
  """

  context: Context | None = None
  concat: jax.Array | None = None
  y: jax.Array | None = None
  control: tuple[jax.Array, ...] | None = None
  concat_noise: jax.Array | None = None
  aspect: jax.Array | None = None
  prior: laplacian_loss.Prior | None = None


@dataclasses.dataclass(frozen=True)
class Widths:
  """What a U-Net must be made for, 0 where there is nothing of a kind.

  Attributes:
    context: width of the tokens.
    concat: channels beside the latent's.
    classes: rows of the U-Net's own table of classes.
  """

  context: int = 0
  concat: int = 0
  classes: int = 0


class Encoder(Protocol):
  """Turns a batch into a condition, and knows the null condition."""

  @property
  def trained(self) -> bool:
    """Whether the weights, if any, are trained with the system."""

  @property
  def widths(self) -> Widths:
    """What it gives."""

  @property
  def example(self) -> Batch:
    """The least that can be encoded."""

  def init(self, key: jax.Array) -> Any:
    """Returns the weights; empty where there are none."""

  def encode(self, params: Any, batch: Batch) -> Context | Inputs:
    """Returns the batch's condition; tokens alone are a context."""

  def null(self, params: Any, batch: Batch) -> Context | Inputs | None:
    """Returns the null condition for as many examples, None: there is none."""


def as_inputs(encoded: Context | Inputs | None) -> Inputs:
  """Returns what an encoder gave as `Inputs`."""
  if isinstance(encoded, Inputs):
    return encoded
  return Inputs(context=encoded)


def example(encoder: Encoder | None, key: jax.Array) -> Context | Inputs | None:
  """Returns the shapes of the encoded example, None without an encoder."""
  if encoder is None:
    return None
  return jax.eval_shape(
    lambda key: encoder.encode(encoder.init(key), encoder.example), key
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenEncoder:
  """A transformer on token ids: the papers' `BERTEmbedder`, frozen CLIP or T5.

  Padding is a token like others, but not to T5: it attends to none, and gives
  zeros in its place, which an attention to the context does see.

  Attributes:
    network: the transformer.
    task: decides the null condition (davidhalladay/Frido:
      scripts/sample_diffusion.py): the encoded empty text, encoded zeros for
      label sets, zeros in place of the encoding for layouts.
    null_prefix: first ids of the empty text.
    pad_id: the id that fills it up.
  """

  network: (
    text_encoders.TransformerEncoder
    | text_encoders.CLIPTextEncoder
    | t5.T5Encoder
  )
  task: str
  null_prefix: tuple[int, ...]
  pad_id: int
  trained: bool = True

  @property
  def widths(self) -> Widths:
    return Widths(context=self.network.dim)

  @property
  def example(self) -> Batch:
    return {'condition_ids': jnp.zeros((1, 2), jnp.int32)}

  def init(self, key: jax.Array) -> Any:
    return self.network.init(key, *self.example.values())['params']

  def encode(self, params: Any, batch: Batch) -> Context:
    return self._embedded(params, batch['condition_ids'])

  def null(self, params: Any, batch: Batch) -> Context:
    count, length = batch['condition_ids'].shape
    if self.task == 'layout':
      return jnp.zeros((count, length, self.network.dim))
    ids = jnp.full((1, length), self.pad_id, jnp.int32)
    prefix = jnp.asarray(self.null_prefix, jnp.int32)[:length]
    ids = ids.at[0, : len(prefix)].set(prefix)
    tokens = self._embedded(params, ids)
    return jnp.broadcast_to(tokens, (count, *tokens.shape[1:]))

  def _embedded(self, params: Any, ids: jax.Array) -> jax.Array:
    if not isinstance(self.network, t5.T5Encoder):
      return params_lib.apply(self.network, params, ids)
    is_there = ids != self.pad_id
    tokens = params_lib.apply(self.network, params, ids, is_there)
    return jnp.where(is_there[..., None], tokens, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxesEncoder:
  """Our own layout encoder: one placed token per object; null = no object."""

  network: text_encoders.BoxEncoder
  trained: bool = True

  @property
  def widths(self) -> Widths:
    return Widths(context=self.network.dim)

  @property
  def example(self) -> Batch:
    return {
      'boxes': jnp.zeros((1, 1, 4)),
      'labels': jnp.zeros((1, 1), jnp.int32),
      'n_boxes': jnp.zeros((1,), jnp.int32),
    }

  def init(self, key: jax.Array) -> Any:
    return self.network.init(key, *self.example.values())['params']

  def encode(self, params: Any, batch: Batch) -> Context:
    return params_lib.apply(
      self.network, params, batch['boxes'], batch['labels'], batch['n_boxes']
    )

  def null(self, params: Any, batch: Batch) -> Context:
    boxes, labels = batch['boxes'], batch['labels']
    none = jnp.zeros_like(batch['n_boxes'])
    return params_lib.apply(
      self.network, params, jnp.zeros_like(boxes), jnp.zeros_like(labels), none
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassEncoder:
  """Classes as one token each, or as ids for the U-Net's own embedding.

  A batch counts classes from 1, with 0 for none; the tables of the published
  models count from 0, and none is the row after the last class.

  Attributes:
    classes: how many there are.
    has_null: whether there is a row for none.
    dim: width of a token; 0 leaves the ids to the U-Net.
    key: of the ids in a batch.
  """

  classes: int
  has_null: bool
  dim: int
  trained: bool = True
  key: str = 'class'

  @property
  def rows(self) -> int:
    """Rows of the table."""
    return self.classes + self.has_null

  @property
  def widths(self) -> Widths:
    if self.dim:
      return Widths(context=self.dim)
    return Widths(classes=self.rows)

  @property
  def network(self) -> conditioners.ClassEmbedder:
    return conditioners.ClassEmbedder(n_classes=self.rows, dim=self.dim)

  @property
  def example(self) -> Batch:
    return {self.key: jnp.ones((1,), jnp.int32)}

  def init(self, key: jax.Array) -> Any:
    if not self.dim:
      return {}
    return self.network.init(key, *self.example.values())['params']

  def encode(self, params: Any, batch: Batch) -> Inputs:
    return self._embedded(params, batch[self.key])

  def null(self, params: Any, batch: Batch) -> Inputs | None:
    if not self.has_null:
      return None
    return self._embedded(params, jnp.zeros_like(batch[self.key]))

  def _embedded(self, params: Any, classes: jax.Array) -> Inputs:
    ids = jnp.where(classes == 0, self.rows - 1, classes - 1)
    if not self.dim:
      return Inputs(y=ids)
    return Inputs(context=params_lib.apply(self.network, params, ids))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BothEncoder:
  """Two conditions at once, such as a picture's channels and a class.

  If both are tokens, which must be equally wide, the second's follow the
  first's; beside placed tokens they lie nowhere in particular.

  Attributes:
    first: of `condition.task`.
    second: of `condition.also`.
  """

  first: Encoder
  second: Encoder
  trained: bool = True

  @property
  def widths(self) -> Widths:
    first, second = self.first.widths, self.second.widths
    return Widths(
      context=first.context or second.context,
      concat=first.concat + second.concat,
      classes=first.classes + second.classes,
    )

  @property
  def example(self) -> Batch:
    return {**self.first.example, **self.second.example}

  def init(self, key: jax.Array) -> Any:
    keys = jax.random.split(key)
    return {
      'first': self.first.init(keys[0]),
      'second': self.second.init(keys[1]),
    }

  def encode(self, params: Any, batch: Batch) -> Inputs:
    return self._join(
      self.first.encode(params['first'], batch),
      self.second.encode(params['second'], batch),
    )

  def null(self, params: Any, batch: Batch) -> Inputs | None:
    first = self.first.null(params['first'], batch)
    second = self.second.null(params['second'], batch)
    return None if second is None else self._join(first, second)

  def _join(
    self, first: Context | Inputs | None, second: Context | Inputs | None
  ) -> Inputs:
    one, other = as_inputs(first), as_inputs(second)
    given = {
      name: value
      for encoded in (one, other)
      for name, value in vars(encoded).items()
      if value is not None
    }
    if one.context is not None and other.context is not None:
      given['context'] = _followed(one.context, other.context)
    return Inputs(**given)


def _followed(first: Context, second: Context) -> Context:
  """Returns the tokens of both, the second's without places of their own."""
  if isinstance(second, transformer.PlacedTokens):
    raise ValueError('the tokens that follow others must have no places.')
  if not isinstance(first, transformer.PlacedTokens):
    return jnp.concatenate([first, second], axis=1)
  anywhere = jnp.array([0.0, 0.0, 1.0, 1.0], first.places.dtype)
  places = jnp.broadcast_to(anywhere, (*second.shape[:2], 4))
  return transformer.PlacedTokens(
    values=jnp.concatenate([first.values, second], axis=1),
    places=jnp.concatenate([first.places, places], axis=1),
  )
