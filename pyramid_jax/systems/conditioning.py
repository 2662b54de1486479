"""Condition encoders: from the arrays of a batch to cross-attention tokens."""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import Protocol

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditions import condition as condition_lib
from pyramid_jax.networks import text_encoders
from pyramid_jax.networks.layers import transformer
from pyramid_jax.systems import system as system_lib


Batch = Mapping[str, jax.Array]
Context = transformer.Context


class Encoder(Protocol):
  """Turns a batch into tokens (B, L, D), and knows the null condition."""

  @property
  def trained(self) -> bool:
    """Whether the weights are trained with the system."""

  @property
  def example(self) -> Batch:
    """The least that can be encoded."""

  def init(self, key: jax.Array) -> Any:
    """Returns the weights."""

  def encode(self, params: Any, batch: Batch) -> Context:
    """Returns the tokens of the batch's condition."""

  def null(self, params: Any, batch: Batch) -> Context:
    """Returns the tokens of the null condition, for as many examples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenEncoder:
  """A transformer on token ids: the papers' `BERTEmbedder`, or frozen CLIP.

  Attributes:
    network: the transformer.
    task: decides the null condition (davidhalladay/Frido:
      scripts/sample_diffusion.py): the encoded empty text, encoded zeros for
      label sets, zeros in place of the encoding for layouts.
    null_prefix: first ids of the empty text.
    pad_id: the id that fills it up.
  """

  network: text_encoders.TransformerEncoder | text_encoders.CLIPTextEncoder
  task: str
  null_prefix: tuple[int, ...]
  pad_id: int
  trained: bool = True

  @property
  def example(self) -> Batch:
    return {'condition_ids': jnp.zeros((1, 2), jnp.int32)}

  def init(self, key: jax.Array) -> Any:
    return self.network.init(key, *self.example.values())['params']

  def encode(self, params: Any, batch: Batch) -> Context:
    return system_lib.apply(self.network, params, batch['condition_ids'])

  def null(self, params: Any, batch: Batch) -> Context:
    count, length = batch['condition_ids'].shape
    if self.task == 'layout':
      return jnp.zeros((count, length, self.network.dim))
    ids = jnp.full((1, length), self.pad_id, jnp.int32)
    prefix = jnp.asarray(self.null_prefix, jnp.int32)[:length]
    ids = ids.at[0, : len(prefix)].set(prefix)
    tokens = system_lib.apply(self.network, params, ids)
    return jnp.broadcast_to(tokens, (count, *tokens.shape[1:]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxesEncoder:
  """Our own layout encoder: one placed token per object; null = no object."""

  network: text_encoders.BoxEncoder
  trained: bool = True

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
    return system_lib.apply(
      self.network, params, batch['boxes'], batch['labels'], batch['n_boxes']
    )

  def null(self, params: Any, batch: Batch) -> Context:
    boxes, labels = batch['boxes'], batch['labels']
    none = jnp.zeros_like(batch['n_boxes'])
    return system_lib.apply(
      self.network, params, jnp.zeros_like(boxes), jnp.zeros_like(labels), none
    )


def create(config: ConfigDict) -> Encoder | None:
  """Builds the encoder of `config.condition`, None for task 'none'.

  Raises:
    ValueError: an encoder that does not serve the task.
  """
  c = config.condition
  if c.task == 'none':
    return None
  if c.encoder == 'boxes':
    if c.task != 'layout':
      raise ValueError(
        "config.condition.encoder 'boxes' serves the task 'layout',"
        f' not {c.task!r}'
      )
    boxes = text_encoders.BoxEncoder(
      dim=c.dim,
      depth=c.depth,
      heads=c.heads,
      head_dim=c.head_dim,
      num_labels=c.num_labels,
      dtype=jnp.dtype(config.dtype),
    )
    return BoxesEncoder(network=boxes)
  network: text_encoders.TransformerEncoder | text_encoders.CLIPTextEncoder
  if c.encoder == 'clip':
    if c.task not in ('text', 'scene_graph'):
      raise ValueError(
        "config.condition.encoder 'clip' serves the tasks 'text' and"
        f" 'scene_graph', not {c.task!r}"
      )
    network = text_encoders.CLIPTextEncoder(
      vocab_size=c.vocab_size,
      max_length=c.max_length,
      dim=c.dim,
      depth=c.depth,
      heads=c.heads,
      mlp_dim=4 * c.dim,
      dtype=jnp.dtype(config.dtype),
    )
  else:
    network = text_encoders.TransformerEncoder(
      vocab_size=c.vocab_size,
      max_seq_len=c.max_length,
      dim=c.dim,
      depth=c.depth,
      heads=c.heads,
      head_dim=c.head_dim,
      dtype=jnp.dtype(config.dtype),
      remat=config.remat,
    )
  return TokenEncoder(
    network=network,
    task=c.task,
    null_prefix=tuple(c.null_prefix),
    pad_id=c.pad_id,
    trained=c.encoder != 'clip',
  )


def frozen_part(encoder: Encoder, config: ConfigDict) -> system_lib.FrozenPart:
  """Returns the part under which a frozen encoder is loaded."""
  return system_lib.FrozenPart(
    init=encoder.init,
    family='clip_text',
    path=config.condition.weights,
    field='condition.weights',
  )


def dropped(
  tokens: Context, null: Context, key: jax.Array, share: float
) -> Context:
  """Replaces each example's tokens by the null tokens with chance `share`."""
  drop = jax.random.bernoulli(key, share, (tokens.shape[0], 1, 1))
  return jax.tree.map(lambda n, t: jnp.where(drop, n, t), null, tokens)


def condition(
  encoder: Encoder | None, params: Any, batch: Batch
) -> condition_lib.Condition:
  """Encodes a batch for sampling, with the null condition."""
  if encoder is None:
    return condition_lib.Condition()
  return condition_lib.Condition(
    context=encoder.encode(params, batch), null=encoder.null(params, batch)
  )
