"""Transformer blocks of the U-Nets and of the condition encoders."""

import functools

from einops import rearrange
from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from pyramid_jax import placement
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import caching
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import parameters
from pyramid_jax.networks.layers import repeated
from pyramid_jax.networks.layers import resampling


POOLS = 8  # queries that pool a context


@flax.struct.dataclass
class PlacedTokens:
  """A context whose tokens lie somewhere in the image."""

  values: jax.Array  # (B, S, D) tokens
  # (B, S, 4) boxes x0, y0, x1, y1 in [0, 1]; the whole image for a token that
  # has no place of its own.
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
  larger distance of both directions counts. Maps boxes (B, S, 4) x0, y0, x1,
  y1 in [0, 1] to (B, height * width, S) float32.
  """
  cells = embeddings.grid_centres(height, width)[:, None]  # (T, 1, 2)
  low, high = places[:, None, :, :2], places[:, None, :, 2:]
  half_cell = 0.5 / jnp.array([width, height])
  half = jnp.maximum((high - low) / 2, half_cell)
  distance = jnp.abs(cells - (low + high) / 2) / half
  return nn.relu(distance.max(-1) - 1)


def parted(
  context: Context | None, height: int, width: int
) -> tuple[jax.Array | None, jax.Array | None]:
  """Returns the tokens, and the `distance_outside` if they have places."""
  if not isinstance(context, PlacedTokens):
    return context, None
  return context.values, distance_outside(context.places, height, width)


def pooled(context: Context, features: int) -> jax.Array:
  """Pools a context (B, S, D) by learned queries to (B, features).

  The calling module owns the parameters `pooled_*`.
  """
  if isinstance(context, PlacedTokens):
    context = context.values
  scores = affine.Linear(POOLS, use_bias=False, name='pooled_query')(context)
  weights = jax.nn.softmax(scores.astype(jnp.float32), axis=1)
  tokens = placement.rows(jnp.einsum('blp,blc->bpc', weights, context))
  tokens = norms.LayerNorm(name='pooled_norm')(tokens)
  tokens = rearrange(tokens, 'b p c -> b (p c)')
  return affine.Linear(features, name='pooled_proj')(tokens)


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
    make = lambda: tuple(self._project(n, source) for n in ('to_k', 'to_v'))
    k, v = make() if context is None else caching.cached(self, 'kv', make)
    bias = None
    if outside is not None:
      strength = parameters.get(
        self, 'place_strength', nn.initializers.constant(3.0), (self.heads,)
      )
      bias = -strength[:, None, None] * outside[:, None]
    out = attention.dot_product_attention(
      q, k, v, bias=bias, implementation=self.attention
    )
    out = rearrange(out, 'b t h d -> b t (h d)')
    out = affine.Linear(x.shape[-1], dtype=self.dtype, name='to_out')(out)
    return nn.Dropout(self.dropout, deterministic=not train)(out)

  def _project(self, name: str, x: jax.Array) -> jax.Array:
    width = self.heads * self.head_dim
    y = affine.Linear(width, use_bias=False, dtype=self.dtype, name=name)(x)
    y = rearrange(y, 'b t (h d) -> b t h d', h=self.heads)
    return placement.split(y, 2, 'heads')


class FeedForward(nn.Module):
  """Two linear layers around an exact GELU."""

  # Whether the GELU of the second half of the hidden values gates the first
  # (GEGLU, arXiv:2002.05202).
  gated: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (..., C) to the same shape."""
    hidden = 4 * x.shape[-1] * (2 if self.gated else 1)
    split = lambda h: placement.split(h, -1, 'hidden values')
    if self.gated:
      both = affine.LinearParts(hidden, 2, dtype=self.dtype, name='net_0')(x)
      value, gate = map(split, both)
      h = value * nn.gelu(gate, approximate=False)
    else:
      h = split(affine.Linear(hidden, dtype=self.dtype, name='net_0')(x))
      h = nn.gelu(h, approximate=False)
    return affine.Linear(x.shape[-1], dtype=self.dtype, name='net_2')(h)


class BasicTransformerBlock(nn.Module):
  """Self-attention, attention to a context, feed-forward, each on a LayerNorm.

  davidhalladay/Frido: frido/modules/attention.py. Tokens `previous` of the
  coarser scales attend to themselves and are then attended to, in between.
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
      context: (B, S, D); None makes the second attention a self-attention.
      previous: (B, P, C) tokens of the coarser scales, or None.
      train: whether there is dropout, only around `previous`.
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

  davidhalladay/Frido: frido/modules/attention.py; without `gated` and
  `use_mscond` also CompVis/latent-diffusion: ldm/modules/attention.py.
  """

  heads: int
  head_dim: int  # Tokens are heads * head_dim wide.
  depth: int = 1
  use_mscond: bool = False  # whether blocks attend to the coarser scales too
  # Octaves of the Fourier features of a token's place that are projected and
  # added to it, 0 for none (ours: attention to boxes finds places sooner).
  grid_frequencies: int = 0
  attention: str = 'auto'
  scan_blocks: int = 0

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
      context: (B, S, D), or such tokens with their places, or None.
      cond: (B, H', W', E) features of the coarser scales, or None.
    """
    _, height, width, channels = x.shape
    project = functools.partial(
      affine.Linear, self.heads * self.head_dim, dtype=self.dtype
    )
    context, outside = parted(context, height, width)
    h = self.norm('norm', x, cond, eps=1e-6)
    tokens = project(name='proj_in')(rearrange(h, 'b h w c -> b (h w) c'))
    previous = None
    if self.use_mscond and cond is not None:
      previous = resampling.nearest(cond, (height, width))
      previous = rearrange(previous, 'b h w c -> b (h w) c')
      previous = project(name='cond_proj_in')(previous)
    if self.grid_frequencies:
      place = embeddings.fourier_features(
        embeddings.grid_centres(height, width), self.grid_frequencies
      )
      project = functools.partial(project, use_bias=False, has_rows=False)
      tokens = tokens + project(name='grid_proj')(place)
    names = [f'transformer_blocks_{i}' for i in range(self.depth)]

    def step(_, i, tokens, __):
      block = BasicTransformerBlock(
        self.heads,
        self.head_dim,
        self.use_mscond,
        self.dtype,
        self.attention,
        name=names[i],
      )
      return block(tokens, context, previous, train, outside), None

    tokens, _ = repeated.run(self, step, names, tokens, least=self.scan_blocks)
    out = affine.Linear(
      channels, dtype=self.dtype, name='proj_out', **affine.ZEROS
    )
    return x + rearrange(out(tokens), 'b (h w) c -> b h w c', h=height)
