"""Time-dependent self-attention (TMSA) and the transformer block around it.

arXiv:2312.02139, equations 3 to 8: one vector a sample, of the noise level
and optionally the class, is projected into the queries, keys and values of all
tokens; logits get a learned bias by relative position.
"""

from collections.abc import Sequence
from typing import Any

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
# vector added to the tokens in front of a plain block, in the biases of
# relative positions, in the hidden values of the feed-forward, or as one more
# token that is attended to. They are compared in arXiv:2312.02139, tables 4, 6
# and 7, which gives equations of 'tmsa' alone.
TIME_TOKENS = ('tmsa', 'add', 'bias', 'mlp', 'separate')

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
  copies along the columns; of these, the keys of a row of queries are one
  slice. So the largest array is written once, and the gradient is a sum over
  slices, where that of a lookup would be scattered.
  """
  x = rearrange(table, '(row column) h -> column row h', row=2 * window - 1)
  x = _differences(x, window)[:, :, ::-1]
  x = rearrange(x, 'ca cb row h -> h ca (row cb)')
  first = [(window - 1 - row) * window for row in range(window)]
  rows = [x[..., start : start + window**2] for start in first]
  return rearrange(jnp.stack(rows, 1), 'h rowa ca keys -> h (rowa ca) keys')


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
  # One of `TIME_TOKENS`, of which 'add' and 'mlp' act outside, or '' for none.
  time_token: str = 'tmsa'
  dropout: float = 0.0  # rate on the output in training
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'
  # Factor of Xavier's initial weights of the three projections.
  qkv_gain: float = 1.0
  out_gain: float = 1.0  # factor of Xavier's initial weights of the output
  has_bias: bool = True  # whether logits get the biases of relative positions

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
      time: (B, D) time tokens, or (1, D).
      window: side of the windows, one of several.
    """
    _, height, width, channels = x.shape
    if channels % self.heads:
      raise ValueError(
        f'{channels} channels cannot be split into {self.heads} heads.'
      )
    side = self._side(window)
    if height % side or width % side:
      raise ValueError(
        f'a map of {height} x {width} cannot be cut into windows of {side} x '
        f'{side}; the side of a window must divide both.'
      )
    make = lambda name: self._projection(name, channels)
    qkv = make('qkv')
    parts = qkv(x)
    if self.time_token == 'tmsa':
      pairs = zip(parts, make('qkv_temb')(time), strict=True)
      parts = [part + more[:, None, None] for part, more in pairs]
    q, k, v = (self._in_windows(part, side) for part in parts)
    if self.time_token == 'separate':
      _, *token = qkv(self._time_as_token(time, channels))
      k, v = (
        self._joined(old, new) for old, new in zip((k, v), token, strict=True)
      )
    out = attention.dot_product_attention(
      q, k, v, implementation=self.attention, **self._bias(side, time, len(q))
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

  def _sides(self) -> tuple[int, ...]:
    """Returns all sides that windows may have."""
    if isinstance(self.window, int):
      return (self.window,)
    return tuple(self.window)

  def _side(self, window: int | None) -> int:
    """Returns the side of the windows of a call."""
    if isinstance(self.window, int) and window is None:
      return self.window
    if window is None or window not in self._sides():
      allowed = ', '.join(map(str, self._sides()))
      raise ValueError(f'window is {window}, allowed: {allowed}.')
    return window

  def _projection(self, name: str, channels: int) -> affine.LinearParts:
    """Returns what projects to queries, keys and values."""
    return affine.LinearParts(
      3 * channels,
      3,
      dtype=self.dtype,
      name=name,
      **affine.xavier(self.qkv_gain),
    )

  def _bias(self, side: int, time: jax.Array, rows: int) -> dict[str, Any]:
    """Returns the arguments of the attention that are its bias.

    `rows` is the number of windows of the whole batch.
    """
    if not self.has_bias:
      return {}
    table = self._tables()[side]

    def of(table: jax.Array) -> jax.Array:
      bias = relative_position_bias(table, side)
      if self.time_token == 'separate':  # a token without a place
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 1)))
      return bias

    if self.time_token != 'bias':
      return {'bias': table, 'bias_of': of}
    if not isinstance(self.window, int):
      raise ValueError(
        f"time_token = 'bias' needs windows of one side, not {self.window}."
      )
    # One table for each time token.
    layer = affine.Linear(
      table.size, name='bias_temb', **affine.xavier(_TABLE_STD)
    )
    tables = table + layer(time).reshape(-1, *table.shape)
    biases = jax.vmap(of)(tables)
    if len(biases) > 1:
      biases = jnp.repeat(biases, rows // len(biases), 0)
    return {'bias': biases}

  def _tables(self) -> dict[int, jax.Array]:
    """Returns the table of biases of each side that windows may have."""
    name = 'relative_position_bias_table'
    has_one = isinstance(self.window, int)
    return {
      n: parameters.get(
        self,
        name if has_one else f'{name}_{n}',
        nn.initializers.normal(_TABLE_STD),
        ((2 * n - 1) ** 2, self.heads),
      )
      for n in self._sides()
    }

  def _time_as_token(self, time: jax.Array, channels: int) -> jax.Array:
    """Maps (B or 1, D) to a normalised token (B or 1, channels)."""
    layer = affine.Linear(
      channels, dtype=self.dtype, name='time_proj', **affine.xavier()
    )
    return norms.LayerNorm(1e-6, self.dtype, affine=False)(layer(time))

  def _joined(self, tokens: jax.Array, new: jax.Array) -> jax.Array:
    """Appends (B or 1, C) to tokens of windows, (B', N, heads, C / heads)."""
    rows, _, heads, width = tokens.shape
    new = new.reshape(-1, 1, heads, width)
    new = jnp.repeat(new, rows // len(new), 0)
    return jnp.concatenate([tokens, new], 1)


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
      self.time_token,
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
    hidden = int(channels * self.mlp_ratio)
    h = self._linear('mlp_fc1', hidden)(h)
    if self.time_token == 'mlp':
      h = h + self._linear('mlp_temb', hidden)(time)[:, None, None]
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
