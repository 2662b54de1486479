"""Time-dependent self-attention (TMSA) and the transformer block around it.

arXiv:2312.02139, equations 3 to 8: one vector a sample, of the noise level
and optionally the class, is projected into the queries, keys and values of all
tokens; logits get a learned bias by relative position.
"""

from collections.abc import Sequence
import functools

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax import placement
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import options
from pyramid_jax.networks.layers import parameters
from pyramid_jax.networks.layers import transformer


# Where the time token acts: inside of the attention, or (for comparison) as a
# vector added to the tokens in front of a plain block.
TIME_TOKENS = ('tmsa', 'add')

# Truncated in the reference, a hundred deviations away.
_TABLE_STD = 0.02


def relative_position_index(window: int) -> np.ndarray:
  """Returns the table row of every pair of tokens of a square window.

  (window ** 2, window ** 2) int64, query first, tokens in row-major order.
  """
  row, column = np.divmod(np.arange(window**2), window)
  down = row[:, None] - row + window - 1
  right = column[:, None] - column + window - 1
  return down * (2 * window - 1) + right


def relative_position_bias(table: jax.Array, window: int) -> jax.Array:
  """Returns table[relative_position_index(window)], heads first.

  Maps ((2 * window - 1) ** 2, H) to (H, window ** 2, window ** 2) by shifted
  copies along one direction, then the other: the gradient is a sum over them,
  where that of a lookup would be scattered.
  """
  x = rearrange(table, '(row column) h -> row column h', row=2 * window - 1)
  x = _differences(x, window)
  x = rearrange(x, 'rowa rowb column h -> column rowa rowb h')
  x = _differences(x, window)
  return rearrange(x, 'ca cb rowa rowb h -> h (rowa ca) (rowb cb)')


def _differences(x: jax.Array, n: int) -> jax.Array:
  """Maps (2n - 1, ...) to y (n, n, ...) with y[a, b] = x[a - b + n - 1].

  Copies of the reversed x, one place longer than it, lie end to end; cut into
  rows of its own length, each begins one place earlier than the one before.
  """
  span = 2 * n - 1
  padded = jnp.pad(x[::-1], ((0, 1),) + ((0, 0),) * (x.ndim - 1))
  copies = jnp.broadcast_to(padded, (n, *padded.shape))
  flat = copies.reshape(n * (span + 1), *x.shape[1:])
  return flat[: n * span].reshape(n, span, *x.shape[1:])[:, n - 1 :]


class TimeAttention(nn.Module):
  """Self-attention in windows of a map, with the time token in q, k and v.

  NVlabs/DiffiT: diffit/diffit.py for one window, the whole map.

  Raises:
    ValueError: heads or windows do not divide the channels or sides.
  """

  heads: int  # must divide the channels
  # Side of the windows, or several sides, of which a call names one, each with
  # a table of biases of its own.
  window: int | Sequence[int]
  use_time: bool = True  # whether there is a time token
  dropout: float = 0.0  # rate on the output in training
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'
  # Factor of Xavier's initial weights of the three projections.
  qkv_gain: float = 1.0
  out_gain: float = 1.0  # factor of Xavier's initial weights of the output

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    time: jax.Array,
    train: bool = False,
    window: int | None = None,
  ) -> jax.Array:
    """Maps (B, H, W, C) to the same shape.

    Args:
      time: (B, D) time tokens, or (1, D); not read without `use_time`.
      window: side of the windows, one of several.
    """
    _, height, width, channels = x.shape
    if channels % self.heads:
      raise ValueError(
        f'{channels} channels cannot be split into {self.heads} heads.'
      )
    side, table = self._table(window)
    if height % side or width % side:
      raise ValueError(
        f'a map of {height} x {width} cannot be cut into windows of {side} x '
        f'{side}; the side of a window must divide both.'
      )
    three = functools.partial(
      affine.LinearParts,
      3 * channels,
      3,
      dtype=self.dtype,
      **affine.xavier(self.qkv_gain),
    )
    parts = three(name='qkv')(x)
    if self.use_time:
      added = three(name='qkv_temb')(time)
      pairs = zip(parts, added, strict=True)
      parts = [part + more[:, None, None] for part, more in pairs]
    q, k, v = (self._in_windows(part, side) for part in parts)
    out = attention.dot_product_attention(
      q,
      k,
      v,
      bias=table,
      bias_of=lambda table: relative_position_bias(table, side),
      implementation=self.attention,
    )
    out = rearrange(
      out.reshape(*out.shape[:2], channels),
      '(b y x) (i j) c -> b (y i) (x j) c',
      y=height // side,
      x=width // side,
      i=side,
    )
    out = affine.Linear(
      channels, dtype=self.dtype, name='proj', **affine.xavier(self.out_gain)
    )(out)
    return nn.Dropout(self.dropout, deterministic=not train)(out)

  def _in_windows(self, x: jax.Array, side: int) -> jax.Array:
    """Maps (B, H, W, C) to the windows' tokens, (B', side ** 2, heads, C').

    Heads are parted last: a TPU fills up arrays that end in their channels.
    """
    windows = 'b (y i) (x j) c -> (b y x) (i j) c'
    tokens = rearrange(x, windows, i=side, j=side)
    heads = tokens.reshape(*tokens.shape[:2], self.heads, -1)
    return placement.split(heads, 2, 'heads')

  def _table(self, window: int | None) -> tuple[int, jax.Array]:
    """Returns the side of the windows and the table of their biases."""
    has_one = isinstance(self.window, int)
    sides = (self.window,) if isinstance(self.window, int) else self.window
    side = sides[0] if has_one and window is None else window
    if side not in sides:
      raise ValueError(
        f'window is {window}, allowed: {", ".join(map(str, sides))}.'
      )
    assert side is not None
    normal = nn.initializers.normal(_TABLE_STD)
    tables = {
      n: parameters.get(
        self,
        'relative_position_bias_table' + ('' if has_one else f'_{n}'),
        normal,
        ((2 * n - 1) ** 2, self.heads),
      )
      for n in sides
    }
    return side, tables[side]


class DiffiTBlock(nn.Module):
  """TMSA, then a feed-forward, each on a LayerNorm without parameters.

  arXiv:2312.02139, equations 7 and 8. Context tokens, if there are any, are
  attended to between both (ours).
  """

  heads: int
  window: int | Sequence[int]
  mlp_ratio: float = 4.0  # hidden width of the feed-forward over the channels
  time_token: str = 'tmsa'  # one of `TIME_TOKENS`
  dropout: float = 0.0  # rate on attention outputs and hidden values
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'
  qkv_gain: float = 1.0
  # Factor of Xavier's initial weights at the end of both branches.
  out_gain: float = 1.0

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    time: jax.Array,
    train: bool = False,
    window: int | None = None,
    context: jax.Array | None = None,
    outside: jax.Array | None = None,
  ) -> jax.Array:
    """Maps (B, H, W, C) to the same shape.

    Args:
      time: (B, D) or (1, D) time tokens.
      window: side of the windows where there are several.
      context: (B, S, E) tokens to attend to, or None.
      outside: (B, H * W, S) distances from the places of the context, or None.
    """
    options.check(self, time_token=TIME_TOKENS)
    channels = x.shape[-1]
    if self.time_token == 'add':
      x = x + self._linear('time_proj', channels)(time)[:, None, None]
    x = x + TimeAttention(
      self.heads,
      self.window,
      self.time_token == 'tmsa',
      self.dropout,
      self.dtype,
      self.attention,
      self.qkv_gain,
      self.out_gain,
      name='attn',
    )(self._norm('norm1', x), time, train, window)
    if context is not None:
      look = transformer.CrossAttention(
        self.heads,
        channels // self.heads,
        self.dropout,
        self.dtype,
        self.attention,
        name='cross',
      )
      tokens = rearrange(self._norm('norm_cross', x), 'b h w c -> b (h w) c')
      x = x + look(tokens, context, train, outside).reshape(x.shape)
    h = self._norm('norm2', x)
    h = self._linear('mlp_fc1', int(channels * self.mlp_ratio))(h)
    h = placement.split(h, -1, 'hidden values')
    h = nn.gelu(h, approximate=True)
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    return x + self._linear('mlp_fc2', channels, self.out_gain)(h)

  def _norm(self, name: str, x: jax.Array) -> jax.Array:
    return norms.LayerNorm(1e-6, self.dtype, affine=False, name=name)(x)

  def _linear(
    self, name: str, features: int, gain: float = 1.0
  ) -> affine.Linear:
    return affine.Linear(
      features, dtype=self.dtype, name=name, **affine.xavier(gain)
    )
