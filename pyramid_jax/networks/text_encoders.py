"""Encoders that turn captions, tokens and boxes into a context."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import prenorm
from pyramid_jax.networks.layers import remat
from pyramid_jax.networks.layers import repeated
from pyramid_jax.networks.layers import transformer


OCTAVES = 8  # The octaves of the Fourier features of a box.


class EncoderBlock(nn.Module):
  """Self-attention, then a GELU feed-forward, each on a LayerNorm.

  CompVis/latent-diffusion: ldm/modules/x_transformer.py.
  """

  heads: int
  head_dim: int
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, N, C) to the same shape."""
    h = norms.LayerNorm(dtype=self.dtype, name='norm_attn')(x)
    x = x + transformer.CrossAttention(
      self.heads, self.head_dim, 0.0, self.dtype, self.attention, name='attn'
    )(h)
    h = norms.LayerNorm(dtype=self.dtype, name='norm_ff')(x)
    return x + transformer.FeedForward(False, self.dtype, name='ff')(h)


class EncoderStack(nn.Module):
  """`depth` encoder blocks."""

  depth: int
  heads: int
  head_dim: int
  dtype: jnp.dtype = jnp.float32
  remat: str = 'none'
  attention: str = 'auto'
  scan_blocks: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, N, C) to the same shape."""
    module = remat.wrapped(EncoderBlock, self.remat)
    fields = (self.heads, self.head_dim, self.dtype, self.attention)

    names = [f'layer_{i}' for i in range(self.depth)]

    def step(_, i, x, __):
      return module(*fields, name=names[i])(x), None

    return repeated.run(self, step, names, x, least=self.scan_blocks)[0]


class TransformerEncoder(nn.Module):
  """The condition encoder of LDM and Frido, trained with their denoisers.

  CompVis/latent-diffusion: ldm/modules/x_transformer.py, TransformerWrapper
  around Encoder. There is no mask: padding is attended to.
  """

  vocab_size: int  # rows of the token embedding
  max_seq_len: int  # rows of the position embedding
  dim: int  # width of the tokens
  depth: int
  heads: int = 8
  head_dim: int = 64
  dtype: jnp.dtype = jnp.float32
  remat: str = 'none'
  attention: str = 'auto'
  scan_blocks: int = 0
  # Standard deviation of the initial embeddings; with 0.02, that of the
  # reference, the first blocks outweigh them.
  embed_std: float = 0.02
  # Whether it has the head of released encoders, which predicts tokens. No step
  # of a system reads it.
  has_logits: bool = False

  def setup(self) -> None:
    self.token_emb = affine.embed(self.vocab_size, self.dim, self.embed_std)
    self.pos_emb = affine.embed(
      self.max_seq_len, self.dim, self.embed_std, has_rows=False
    )
    self.layers = EncoderStack(
      self.depth,
      self.heads,
      self.head_dim,
      self.dtype,
      self.remat,
      self.attention,
      self.scan_blocks,
    )
    self.norm = norms.LayerNorm(dtype=self.dtype)
    if self.has_logits:
      self.to_logits = affine.Linear(self.vocab_size)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Maps (B, N) token ids, N <= max_seq_len, to (B, N, dim) features."""
    positions = _positions(tokens, self.max_seq_len)
    x = self.token_emb(tokens) + self.pos_emb(positions)
    x = self.norm(self.layers(x.astype(self.dtype)))
    if self.is_initializing() and self.has_logits:
      self.to_logits(x)
    return x

  def logits(self, tokens: jax.Array) -> jax.Array:
    """Maps (B, N) token ids to (B, N, vocab_size) float32 logits."""
    if not self.has_logits:
      raise ValueError('logits need has_logits, got False.')
    return self.to_logits(self(tokens))


class CLIPTextEncoder(nn.Module):
  """The text tower of CLIP (arXiv:2103.00020); the defaults are ViT-L/14's.

  huggingface/transformers: CLIPTextModel; openai/CLIP: encode_text. With one
  block less and an exact GELU it gives what Stable Diffusion 2 takes of
  OpenCLIP: the states before the last block, after the last norm.
  """

  vocab_size: int = 49408  # rows of the token embedding
  max_length: int = 77  # rows of the position embedding
  dim: int = 768  # width of the tokens
  depth: int = 12
  heads: int = 12
  mlp_dim: int = 3072  # hidden width of the feed-forwards
  hidden_act: str = 'quick_gelu'  # a key of `prenorm.ACTIVATIONS`
  # Width of the space shared with images, None without.
  projection_dim: int | None = None
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'
  scan_blocks: int = 0

  def setup(self) -> None:
    self.token_embedding = affine.embed(self.vocab_size, self.dim, 0.02)
    self.position_embedding = affine.embed(
      self.max_length, self.dim, 0.01, has_rows=False
    )
    self.layers = [
      prenorm.PreNormBlock(
        self.heads,
        self.mlp_dim,
        self.hidden_act,
        self.dtype,
        self.attention,
        is_causal=True,
      )
      for _ in range(self.depth)
    ]
    self.final_layer_norm = norms.LayerNorm(dtype=self.dtype)
    if self.projection_dim is not None:
      self.text_projection = affine.Linear(self.projection_dim, use_bias=False)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Maps (B, N) ids, N <= max_length, to (B, N, dim), the last states."""
    positions = _positions(tokens, self.max_length)
    x = self.token_embedding(tokens) + self.position_embedding(positions)
    x = x.astype(self.dtype)

    def step(module, i, x, _):
      return module.layers[i](x), None

    names = [f'layers_{i}' for i in range(self.depth)]
    x, _ = repeated.run(self, step, names, x, least=self.scan_blocks)
    x = self.final_layer_norm(x)
    if self.is_initializing() and self.projection_dim is not None:
      self.text_projection(x)
    return x

  def pooled(self, tokens: jax.Array) -> jax.Array:
    """Maps (B, N) token ids to (B, 1, projection_dim) unit vectors.

    The state at the end-of-text token, the largest id, is projected.
    """
    if self.projection_dim is None:
      raise ValueError('pooled features need projection_dim, got None.')
    end = tokens.argmax(axis=-1)[:, None, None]
    x = jnp.take_along_axis(self(tokens), end, axis=1)
    x = self.text_projection(x.astype(jnp.float32))
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x.astype(self.dtype)


class BoxEncoder(nn.Module):
  """Encodes each labelled box as one token (ours).

  A token is the sum of a label embedding and a linear map of the Fourier
  features of the box's corners, centre and size. One learned null token stands
  for the rest of the image, and for absent objects. Encoder blocks follow,
  without position embeddings: the order of the objects means nothing.
  """

  dim: int  # width of the tokens
  depth: int
  heads: int
  num_labels: int  # categories, the padding label 0 included
  head_dim: int = 64
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'
  scan_blocks: int = 0

  @nn.compact
  def __call__(
    self, boxes: jax.Array, labels: jax.Array, n_boxes: jax.Array
  ) -> transformer.PlacedTokens:
    """Returns (B, N + 1, dim) tokens with their boxes.

    Args:
      boxes: (B, N, 4) x0, y0, x1, y1 in [0, 1].
      labels: (B, N) int32 in [0, num_labels).
      n_boxes: (B,) int32, how many of the N are there.
    """
    b, n = labels.shape if labels.ndim == 2 else (0, 0)
    if boxes.shape != (b, n, 4) or n_boxes.shape != (b,):
      raise ValueError(
        'the box encoder takes boxes (B, N, 4), labels (B, N) and n_boxes '
        f'(B,), got {boxes.shape}, {labels.shape} and {n_boxes.shape}.'
      )
    low, high = boxes[..., :2], boxes[..., 2:]
    geometry = jnp.concatenate([boxes, (low + high) / 2, high - low], axis=-1)
    features = embeddings.fourier_features(geometry, OCTAVES)
    x = affine.Linear(self.dim, name='box_proj')(features)
    # The linear map's values have this standard deviation too.
    x = x + affine.embed(self.num_labels, self.dim, 0.4, 'label_emb')(labels)
    null = self.param('null', nn.initializers.normal(0.4), (self.dim,))
    is_there = (jnp.arange(n + 1) < n_boxes[:, None])[..., None]
    one_more = ((0, 0), (0, 1), (0, 0))
    x = jnp.where(is_there, jnp.pad(x, one_more), null).astype(self.dtype)
    anywhere = jnp.array([0.0, 0.0, 1.0, 1.0])
    places = jnp.where(is_there, jnp.pad(boxes, one_more), anywhere)
    x = EncoderStack(
      self.depth,
      self.heads,
      self.head_dim,
      self.dtype,
      attention=self.attention,
      scan_blocks=self.scan_blocks,
      name='layers',
    )(x)
    x = norms.LayerNorm(dtype=self.dtype, name='norm')(x)
    return transformer.PlacedTokens(values=x, places=places)


def _positions(tokens: jax.Array, limit: int) -> jax.Array:
  if tokens.ndim != 2 or tokens.shape[1] > limit:
    raise ValueError(
      f'tokens must be (B, N) with N <= {limit}, got shape {tokens.shape}.'
    )
  return jnp.arange(tokens.shape[1])
