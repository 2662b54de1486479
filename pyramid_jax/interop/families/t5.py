"""The encoder of T5 v1.1: keys of its files.

huggingface/transformers: T5EncoderModel, and T5ForConditionalGeneration, whose
decoder is left out.
"""

from collections.abc import Mapping
import re

import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.networks import t5


State = Mapping[str, np.ndarray]

_SHARED = 'shared.weight'
_EMBEDDING = 'encoder.embed_tokens.weight'  # another name of the same tensor
_DECODER = re.compile(r'decoder\.|lm_head\.')
_BIAS = 'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
_MODULES = {
  'shared': 'shared',
  'relative_attention_bias': _BIAS.removesuffix('.weight'),
  'final_layer_norm': 'encoder.final_layer_norm',
}
# Our module of a block -> where it stands in the official one.
_PARTS = {
  'norm_attn': 'layer.0.layer_norm',
  **{name: f'layer.0.SelfAttention.{name}' for name in 'qkvo'},
  'norm_ff': 'layer.1.layer_norm',
  **{name: f'layer.1.DenseReluDense.{name}' for name in ('wi_0', 'wi_1', 'wo')},
}


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns official key and kind of a `t5.T5Encoder` parameter."""
  *modules, leaf = path
  name = modules[0]
  if name in _MODULES:
    return mapping.official(_MODULES[name], leaf)
  block = f'encoder.block.{name.removeprefix("block_")}'
  return mapping.official(f'{block}.{_PARTS[modules[1]]}', leaf)


def adapt(state: State) -> State:
  """Returns a state dict without the decoder and with one embedding.

  Raises:
    ValueError: the two names of the embedding hold different values.
  """
  names = {key: key for key in state if not _DECODER.match(key)}
  if names.pop(_EMBEDDING, None):
    names.setdefault(_SHARED, _EMBEDDING)
    if not np.array_equal(state[names[_SHARED]], state[_EMBEDDING]):
      raise ValueError(f'{_SHARED} and {_EMBEDDING} differ; they must be equal')
  return mapping.Renamed(state, names)


def infer(state: State) -> t5.T5Encoder:
  """Returns the encoder whose weights these are.

  Raises:
    ValueError: they are of no T5 with gated feed-forwards.
  """
  state = adapt(state)
  block = 'encoder.block.0.layer'
  q = f'{block}.0.SelfAttention.q.weight'
  wi = f'{block}.1.DenseReluDense.wi_0.weight'
  absent = [key for key in (_SHARED, _BIAS, q, wi) if key not in state]
  if absent:
    raise ValueError(f'no encoder of T5 v1.1: {absent[0]} is missing')
  vocab_size, dim = state[_SHARED].shape
  buckets, heads = state[_BIAS].shape
  return t5.T5Encoder(
    vocab_size=vocab_size,
    dim=dim,
    depth=mapping.count(state, 'encoder.block'),
    heads=heads,
    head_dim=state[q].shape[0] // heads,
    mlp_dim=state[wi].shape[0],
    buckets=buckets,
  )
