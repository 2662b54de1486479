"""Sequences of token ids: texts, layouts and label sets, by a transformer.

One encoder is trained with the system (the `BERTEmbedder` of
CompVis/latent-diffusion: ldm/modules/encoders/modules.py), two are pretrained:
CLIP's text tower and T5.
"""

import dataclasses
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoder
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pretrained as pretrained_lib
from pyramid_jax.networks import t5
from pyramid_jax.networks import text_encoders


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenEncoder(encoder.Encoder):
  """A transformer on token ids that is trained with the system.

  Padding is a token like others. The task decides the null condition
  (davidhalladay/Frido: scripts/sample_diffusion.py): the encoded empty text,
  encoded zeros for label sets, zeros in place of the encoding for layouts.

  Attributes:
    network: the transformer.
    task: `config.condition.task`.
    max_length: the number of ids of an example.
    null_prefix: first ids of the empty text.
    pad_id: the id that fills it up.
  """

  network: (
    text_encoders.TransformerEncoder
    | text_encoders.CLIPTextEncoder
    | t5.T5Encoder
  )
  task: str
  max_length: int
  null_prefix: tuple[int, ...]
  pad_id: int

  family = 'bert'

  @property
  def widths(self) -> encoder.Widths:
    return encoder.Widths(context=self.network.dim)

  @property
  def example(self) -> encoder.Batch:
    return {'condition_ids': jnp.zeros((1, self.max_length), jnp.int32)}

  def init(self, key: jax.Array) -> Any:
    return self.network.init(key, *self.example.values())['params']

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    return encoder.Inputs(context=self.embedded(params, batch['condition_ids']))

  def null(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    count, length = batch['condition_ids'].shape
    if self.task == 'layout':
      return encoder.Inputs(
        context=jnp.zeros((count, length, self.network.dim))
      )
    ids = jnp.full((1, length), self.pad_id, jnp.int32)
    prefix = jnp.asarray(self.null_prefix, jnp.int32)[:length]
    ids = ids.at[0, : len(prefix)].set(prefix)
    tokens = self.embedded(params, ids)
    return encoder.Inputs(
      context=jnp.broadcast_to(tokens, (count, *tokens.shape[1:]))
    )

  def embedded(self, params: Any, ids: jax.Array) -> jax.Array:
    """Returns the tokens (B, L, D) of ids (B, L) int32."""
    return params_lib.apply(self.network, params, ids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedEncoder(TokenEncoder):
  """A transformer on the ids of a text, loaded and never trained.

  Attributes, in addition to those of `TokenEncoder`:
    path: the path of the weights, a workdir or a file; '' where nothing is
      named.
  """

  path: str = ''

  family = ''
  pretrained_family: ClassVar[str]  # The family of the converter.

  @property
  def pretrained(self) -> pretrained_lib.PretrainedPart:
    return pretrained_lib.PretrainedPart(
      init=self.init,
      family=self.pretrained_family,
      path=self.path,
      field='condition.weights',
    )

  @property
  def pretrained_text(self) -> encoder.Encoder:
    return self

  def with_text(self, other: encoder.Encoder) -> encoder.Encoder:
    return other


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipEncoder(PretrainedEncoder):
  """CLIP's text tower: its last hidden states, or one token.

  Attributes, in addition to those of `PretrainedEncoder`:
    pooled: whether there is one token, the projected state at the end of the
      text as a unit vector (CompVis/latent-diffusion:
      ldm/modules/encoders/modules.py, FrozenCLIPTextEmbedder; the states are
      those of its FrozenCLIPEmbedder).
  """

  network: text_encoders.CLIPTextEncoder
  pooled: bool = False
  pretrained_family: ClassVar[str] = 'clip_text'

  @property
  def is_openai(self) -> bool:
    """Whether checkpoints name its weights as openai/CLIP does."""
    return self.pooled or self.network.hidden_act == 'gelu'

  def embedded(self, params: Any, ids: jax.Array) -> jax.Array:
    if not self.pooled:
      return super().embedded(params, ids)
    return params_lib.apply(self.network, params, ids, method='pooled')


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Encoder(PretrainedEncoder):
  """The last hidden states of T5.

  It attends to no padding, and gives zeros in its place, which an attention to
  the context does see.
  """

  network: t5.T5Encoder
  pretrained_family: ClassVar[str] = 't5'
  unpublished = "config.condition.encoder is 't5'"

  def embedded(self, params: Any, ids: jax.Array) -> jax.Array:
    is_there = ids != self.pad_id
    tokens = params_lib.apply(self.network, params, ids, is_there)
    return jnp.where(is_there[..., None], tokens, 0)


def create(config: ConfigDict, _: encoder.FirstStage) -> TokenEncoder:
  """Builds the encoder of `config.condition.encoder` 'tokens'."""
  c = config.condition
  network = text_encoders.TransformerEncoder(
    **_sizes(config),
    max_seq_len=c.max_length,
    head_dim=c.head_dim,
    remat=config.remat,
    embed_std=c.embed_std,
  )
  return TokenEncoder(network=network, **_sequence(config))


def create_clip(config: ConfigDict, _: encoder.FirstStage) -> ClipEncoder:
  """Builds the encoder of `config.condition.encoder` 'clip', see `_text`."""
  c = config.condition
  network = text_encoders.CLIPTextEncoder(
    **_sizes(config),
    max_length=c.max_length,
    mlp_dim=c.mlp_dim or 4 * c.dim,
    hidden_act=c.hidden_act,
  )
  if c.pooled:  # OpenAI's projections are square
    network = network.clone(projection_dim=c.dim)
  return ClipEncoder(
    network=network, pooled=c.pooled, path=c.weights, **_text(config)
  )


def create_t5(config: ConfigDict, _: encoder.FirstStage) -> T5Encoder:
  """Builds the encoder of `config.condition.encoder` 't5', see `_text`."""
  c = config.condition
  network = t5.T5Encoder(
    **_sizes(config), head_dim=c.head_dim, mlp_dim=c.mlp_dim or 4 * c.dim
  )
  return T5Encoder(network=network, path=c.weights, **_text(config))


def _sizes(config: ConfigDict) -> dict[str, Any]:
  """Returns the fields that all transformers have."""
  names = ('vocab_size', 'dim', 'depth', 'heads')
  sizes = {name: config.condition[name] for name in names}
  return {
    **sizes,
    'dtype': jnp.dtype(config.dtype),
    'attention': config.attention,
    'scan_blocks': config.scan_blocks,
  }


def _sequence(config: ConfigDict) -> dict[str, Any]:
  """Returns the attributes that describe the ids."""
  c = config.condition
  return {
    'task': c.task,
    'max_length': c.max_length,
    'null_prefix': tuple(c.null_prefix),
    'pad_id': c.pad_id,
  }


def _text(config: ConfigDict) -> dict[str, Any]:
  """Returns `_sequence`, and raises ValueError for a task that is no text."""
  c = config.condition
  if c.task not in tokenizers.PROMPTED:
    raise ValueError(
      f'config.condition.encoder {c.encoder!r} serves the tasks'
      f' {", ".join(tokenizers.PROMPTED)}, not {c.task!r}'
    )
  return _sequence(config)
