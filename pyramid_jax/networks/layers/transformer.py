"""Transformer blocks of the U-Nets and of the condition encoders."""

from einops import rearrange
from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import caching
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import init
from pyramid_jax.networks.layers import linear
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import resampling


POOLS = 8  # queries that pool a context


@flax.struct.dataclass
class PlacedTokens:
  """A context whose tokens lie somewhere in the image."""

  values: jax.Array  # (B, S, D) tokens
  # (B, S, 4) boxes x0, y0, x1, y1 in [0, 1]; all of the image for a token that
  # lies nowhere in particular.
  places: jax.Array

  @property
  def shape(self) -> tuple[int, ...]:
    return self.values.shape

  @property
  def ndim(self) -> int:
    return self.values.ndim


# Either tokens alone, (B, S, D), or tokens with their places.
Context = jax.Array | PlacedTokens


def distance_outside(places: jax.Array, height: int, width: int) -> jax.Array:
  """Returns how far the cells of a grid lie outside of boxes, 0 inside.

  The unit is half the box's side, or half a cell where that is larger; the
  larger distance of both directions counts. The boxes `places` are (B, S, 4)
  x0, y0, x1, y1 in [0, 1]; the result is (B, height * width, S) float32.
  """
  cells = embeddings.grid_centres(height, width)[:, None]  # (T, 1, 2)
  low, high = places[:, None, :, :2], places[:, None, :, 2:]
  half_cell = 0.5 / jnp.array([width, height])
  half = jnp.maximum((high - low) / 2, half_cell)
  distance = jnp.abs(cells - (low + high) / 2) / half
  return nn.relu(distance.max(-1) - 1)


def pooled(context: Context, features: int) -> jax.Array:
  """Pools a context (B, S, D) by learned queries to (B, features).

  The calling module owns the parameters `pooled_query`, `pooled_norm` and
  `pooled_proj`.
  """
  if isinstance(context, PlacedTokens):
    context = context.values
  scores = linear.Linear(POOLS, use_bias=False, name='pooled_query')(context)
  weights = jax.nn.softmax(scores.astype(jnp.float32), axis=1)
  tokens = jnp.einsum('blp,blc->bpc', weights, context)
  tokens = norms.LayerNorm(name='pooled_norm')(tokens)
  tokens = rearrange(tokens, 'b p c -> b (p c)')
  return linear.Linear(features, name='pooled_proj')(tokens)


class CrossAttention(nn.Module):
  """Attention from tokens to a context, or to themselves.

  Queries, keys and values have no bias, the output has one. Keys and values
  of a context go through `caching.cached`: a sampler's context stays.
  """

  heads: int
  head_dim: int
  dropout: float = 0.0  # rate on the output in training
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    context: jax.Array | None = None,
    train: bool = False,
    outside: jax.Array | None = None,
  ) -> jax.Array:
    """Maps tokens (B, T, C) to the same shape.

    Args:
      context: (B, S, D) tokens to attend to; None for x itself.
      outside: (B, T, S) distances that lower a head's logits by a learned
        factor, or None.
    """
    q = self._project('to_q', x)
    source = x if context is None else context
    make = lambda: (
      self._project('to_k', source),
      self._project('to_v', source),
    )
    k, v = make() if context is None else caching.cached(self, 'kv', make)
    bias = None
    if outside is not None:
      strength = self.param(
        'place_strength', nn.initializers.constant(3.0), (self.heads,)
      )
      bias = -strength[:, None, None] * outside[:, None]
    out = attention.dot_product_attention(
      q, k, v, bias=bias, implementation=self.attention
    )
    out = rearrange(out, 'b t h d -> b t (h d)')
    out = linear.Linear(x.shape[-1], dtype=self.dtype, name='to_out')(out)
    return nn.Dropout(self.dropout, deterministic=not train)(out)

  def _project(self, name: str, x: jax.Array) -> jax.Array:
    width = self.heads * self.head_dim
    y = linear.Linear(width, use_bias=False, dtype=self.dtype, name=name)(x)
    return rearrange(y, 'b t (h d) -> b t h d', h=self.heads)


class FeedForward(nn.Module):
  """Two linear layers around an exact GELU."""

  # Whether the first half of the hidden values is multiplied by the GELU of the
  # second (GEGLU, arXiv:2002.05202).
  gated: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (..., C) to the same shape."""
    hidden = 4 * x.shape[-1] * (2 if self.gated else 1)
    h = linear.Linear(hidden, dtype=self.dtype, name='net_0')(x)
    if self.gated:
      value, gate = jnp.split(h, 2, axis=-1)
      h = value * nn.gelu(gate, approximate=False)
    else:
      h = nn.gelu(h, approximate=False)
    return linear.Linear(x.shape[-1], dtype=self.dtype, name='net_2')(h)


class BasicTransformerBlock(nn.Module):
  """Self-attention, attention to a context, feed-forward, each on a LayerNorm.

  davidhalladay/Frido: frido/modules/attention.py. With `previous`, tokens of
  the coarser scales, these first attend to themselves and are then attended
  to between self-attention and the context.
  """

  heads: int
  head_dim: int
  use_mscond: bool = False  # whether `previous` may be given
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    context: jax.Array | None = None,
    previous: jax.Array | None = None,
    train: bool = False,
    outside: jax.Array | None = None,
  ) -> jax.Array:
    """Maps tokens (B, T, C) to the same shape.

    Args:
      x: the tokens.
      context: (B, S, D); None makes the second attention a self-attention.
      previous: (B, P, C) tokens of the coarser scales, or None.
      train: whether dropout is active (only around `previous`).
      outside: (B, T, S) distances from the places of the context, or None.
    """
    x = x + self._attention('attn1')(self._norm('norm1', x))
    if self.use_mscond and previous is not None:
      p = self._attention('attn_prev', dropout=0.5)(
        self._norm('norm_prev', previous), None, train
      )
      x = x + self._attention('attn_cross', dropout=0.2)(
        self._norm('norm_cross', x), previous + p, train
      )
    x = x + self._attention('attn2')(
      self._norm('norm2', x), context, train, outside
    )
    feed_forward = FeedForward(dtype=self.dtype, name='ff')
    return x + feed_forward(self._norm('norm3', x))

  def _norm(self, name: str, x: jax.Array) -> jax.Array:
    return norms.LayerNorm(dtype=self.dtype, name=name)(x)

  def _attention(self, name: str, dropout: float = 0.0) -> CrossAttention:
    return CrossAttention(
      self.heads, self.head_dim, dropout, self.dtype, self.attention, name=name
    )


class SpatialTransformer(norms.MaybeGated):
  """Transformer blocks over the pixels of a map, as a residual.

  davidhalladay/Frido: frido/modules/attention.py; without `gated`,
  `use_mscond` and `max_grid` also CompVis/latent-diffusion:
  ldm/modules/attention.py.
  """

  heads: int
  head_dim: int  # of every attention; the tokens are heads * head_dim wide
  depth: int = 1
  # Whether the blocks attend to the coarser scales too.
  use_mscond: bool = False
  max_grid: int = 0  # longest side with a position embedding, 0 for none
  # Octaves of the Fourier features of a token's place that are projected and
  # added to it, 0 for none (ours: attention to boxes finds places sooner).
  grid_frequencies: int = 0
  attention: str = 'auto'

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    context: Context | None = None,
    cond: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Maps (B, H, W, C) to the same shape.

    Args:
      x: the map.
      context: (B, S, D), or such tokens with their places, or None.
      cond: (B, H', W', E) features of the coarser scales, or None.
      train: whether dropout is active.

    Raises:
      ValueError: position embeddings, for a grid beyond `max_grid` or for
        tokens that are not as wide as x.
    """
    _, height, width, channels = x.shape
    project = lambda name: linear.Linear(
      self.heads * self.head_dim, dtype=self.dtype, name=name
    )
    outside = None
    if isinstance(context, PlacedTokens):
      outside = distance_outside(context.places, height, width)
      context = context.values
    h = self.norm('norm', x, cond, eps=1e-6)
    tokens = project('proj_in')(rearrange(h, 'b h w c -> b (h w) c'))
    previous = None
    if self.use_mscond and cond is not None:
      previous = resampling.nearest(cond, (height, width))
      previous = rearrange(previous, 'b h w c -> b (h w) c')
      previous = project('cond_proj_in')(previous)
    if self.max_grid:
      tokens = tokens + self._position(height, width, channels)
    if self.grid_frequencies:
      tokens = tokens + self._place(height, width)
    for i in range(self.depth):
      block = BasicTransformerBlock(
        self.heads,
        self.head_dim,
        self.use_mscond,
        self.dtype,
        self.attention,
        name=f'transformer_blocks_{i}',
      )
      tokens = block(tokens, context, previous, train, outside)
    out = linear.Linear(
      channels, dtype=self.dtype, name='proj_out', **init.ZEROS
    )
    return x + rearrange(out(tokens), 'b (h w) c -> b h w c', h=height)

  def _position(self, height: int, width: int, channels: int) -> jax.Array:
    if self.heads * self.head_dim != channels:
      raise ValueError(
        f'position embeddings of {channels} channels do not fit tokens of '
        f'{self.heads} heads x {self.head_dim}.'
      )
    normal = nn.initializers.normal(1.0)
    embed = nn.Embed(
      self.max_grid, channels, embedding_init=normal, name='pos_embed'
    )
    table = embed(jnp.arange(self.max_grid))
    return embeddings.grid_embedding(table, height, width).astype(self.dtype)

  def _place(self, height: int, width: int) -> jax.Array:
    place = embeddings.fourier_features(
      embeddings.grid_centres(height, width), self.grid_frequencies
    )
    inner = self.heads * self.head_dim
    return linear.Linear(inner, False, self.dtype, name='grid_proj')(place)
