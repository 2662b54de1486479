"""Time-dependent self-attention (TMSA) and the transformer block around it.

arXiv:2312.02139, equations 3 to 8: one vector a sample, of the noise level
and perhaps the class, is projected into the queries, keys and values of all
tokens; logits get a learned bias by relative position.
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import init
from pyramid_jax.networks.layers import linear
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import transformer


# How a block learns the noise level: 'tmsa' inside of the attention, 'add' as
# a vector added to the tokens in front of a plain block (for comparison).
TIME_TOKENS = ('tmsa', 'add')

# Truncated in the reference, a hundred deviations away.
_TABLE_STD = 0.02


def relative_position_index(window: int) -> np.ndarray:
  """Returns the table row of every pair of tokens of a square window.

  Args:
    window: side of the window; tokens are in row-major order.

  Returns:
    (window ** 2, window ** 2) int64, query first, entries in
    [0, (2 * window - 1) ** 2).
  """
  row, column = np.divmod(np.arange(window**2), window)
  down = row[:, None] - row + window - 1
  right = column[:, None] - column + window - 1
  return down * (2 * window - 1) + right


def relative_position_bias(table: jax.Array, window: int) -> jax.Array:
  """Returns table[relative_position_index(window)], heads first.

  Made of shifted copies along one direction, then the other: the gradient is
  a sum over them, where that of a lookup would be scattered.

  Args:
    table: ((2 * window - 1) ** 2, H).
    window: side of the window.

  Returns:
    (H, window ** 2, window ** 2).
  """
  span = 2 * window - 1
  x = table.reshape(span, span, -1)
  x = _differences(x, window)  # (row a, row b, column difference, H)
  x = jnp.moveaxis(x, 2, 0)
  x = _differences(x, window)  # (column a, column b, row a, row b, H)
  x = x.transpose(4, 2, 0, 3, 1)
  return x.reshape(-1, window**2, window**2)


def _differences(x: jax.Array, n: int) -> jax.Array:
  """Maps (2n - 1, ...) to y (n, n, ...) with y[a, b] = x[a - b + n - 1].

  Copies of the reversed x, one place longer than it, lie end to end; cut into
  rows of its own length, every row begins one place earlier than the one
  before.
  """
  span = 2 * n - 1
  padded = jnp.pad(x[::-1], ((0, 1),) + ((0, 0),) * (x.ndim - 1))
  copies = jnp.broadcast_to(padded, (n, *padded.shape))
  flat = copies.reshape(n * (span + 1), *x.shape[1:])
  return flat[: n * span].reshape(n, span, *x.shape[1:])[:, n - 1 :]


def to_windows(x: jax.Array, window: int) -> jax.Array:
  """Maps (B, H, W, C) to (B * windows, window ** 2, C), window by window.

  Raises:
    ValueError: the window does not divide the map.
  """
  b, height, width, channels = x.shape
  if height % window or width % window:
    raise ValueError(
      f'a map of {height} x {width} cannot be cut into windows of {window} x '
      f'{window}; the side of a window must divide both.'
    )
  rows, columns = height // window, width // window
  x = x.reshape(b, rows, window, columns, window, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b * rows * columns, window**2, channels)


def from_windows(x: jax.Array, height: int, width: int) -> jax.Array:
  """Undoes `to_windows`, to (B, height, width, C)."""
  window = round(x.shape[1] ** 0.5)
  rows, columns = height // window, width // window
  x = x.reshape(-1, rows, columns, window, window, x.shape[-1])
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(-1, height, width, x.shape[-1])


class TimeAttention(nn.Module):
  """Self-attention in windows of a map, with the time token in q, k and v.

  NVlabs/DiffiT: diffit/diffit.py for one window, the whole map.

  Attributes:
    heads: must divide the channels.
    window: side of the windows, which do not overlap; or several sides, of
      which a call names one, each with a table of its own.
    use_time: whether there is a time token.
    dropout: rate on the output when training.
    dtype: of the activations.
    attention: which kernel, see `attention.dot_product_attention`.
    qkv_gain: factor of Xavier's initial weights of the three projections.
    out_gain: of the output's.
  """

  heads: int
  window: int | Sequence[int]
  use_time: bool = True
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'
  qkv_gain: float = 1.0
  out_gain: float = 1.0

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
      x: (B, H, W, C).
      time: (B, D) time tokens, or (1, D); not read without `use_time`.
      train: whether dropout is active, which needs a 'dropout' key.
      window: side of the windows where there are several.

    Raises:
      ValueError: channels or sides that cannot be split so, or a window that
        there is not.
    """
    _, height, width, channels = x.shape
    if channels % self.heads:
      raise ValueError(
        f'{channels} channels cannot be split into {self.heads} heads.'
      )
    z = self._linear(3 * channels, 'qkv', self.qkv_gain)(x)
    if self.use_time:
      offset = self._linear(3 * channels, 'qkv_temb', self.qkv_gain)(time)
      z = z + offset[:, None, None]
    side, table = self._table(window)
    z = to_windows(z, side)
    z = z.reshape(*z.shape[:2], 3, self.heads, channels // self.heads)
    q, k, v = (z[:, :, i] for i in range(3))
    out = attention.dot_product_attention(
      q,
      k,
      v,
      bias=relative_position_bias(table, side),
      implementation=self.attention,
    )
    out = from_windows(out.reshape(*out.shape[:2], channels), height, width)
    out = self._linear(channels, 'proj', self.out_gain)(out)
    return nn.Dropout(self.dropout, deterministic=not train)(out)

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
    tables = {}
    for n in sides:
      name = 'relative_position_bias_table' + ('' if has_one else f'_{n}')
      tables[n] = self.param(
        name,
        nn.initializers.normal(_TABLE_STD),
        ((2 * n - 1) ** 2, self.heads),
      )
    return side, tables[side]

  def _linear(self, features: int, name: str, gain: float) -> linear.Linear:
    return linear.Linear(
      features,
      dtype=self.dtype,
      kernel_init=init.xavier(gain),
      bias_init=nn.initializers.zeros,
      name=name,
    )


class DiffiTBlock(nn.Module):
  """TMSA, then a feed-forward, each on a LayerNorm without parameters.

  arXiv:2312.02139, equations 7 and 8. Tokens of a context, if there are, are
  attended to between both (ours).

  Attributes:
    heads: see `TimeAttention`.
    window: see `TimeAttention`.
    mlp_ratio: hidden width of the feed-forward over the channels.
    time_token: one of `TIME_TOKENS`.
    dropout: rate on the attention's output and on the hidden values of the
      feed-forward when training.
    dtype: of the activations.
    attention: see `TimeAttention`.
    qkv_gain: see `TimeAttention`.
    out_gain: factor of Xavier's initial weights at the end of both branches.
  """

  heads: int
  window: int | Sequence[int]
  mlp_ratio: float = 4.0
  time_token: str = 'tmsa'
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'
  qkv_gain: float = 1.0
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
      x: (B, H, W, C).
      time: and the next two, see `TimeAttention`.
      train: likewise.
      window: likewise.
      context: (B, S, E) tokens to attend to, or None.
      outside: (B, H * W, S), see `transformer.CrossAttention`, or None.
    """
    if self.time_token not in TIME_TOKENS:
      raise ValueError(
        f'time_token is {self.time_token!r}, allowed: {", ".join(TIME_TOKENS)}.'
      )
    channels = x.shape[-1]
    if self.time_token == 'add':
      x = x + self._linear(channels, 'time_proj')(time)[:, None, None]
    attend = TimeAttention(
      self.heads,
      self.window,
      self.time_token == 'tmsa',
      self.dropout,
      self.dtype,
      self.attention,
      self.qkv_gain,
      self.out_gain,
      name='attn',
    )
    x = x + attend(self._norm('norm1', x), time, train, window)
    if context is not None:
      look = transformer.CrossAttention(
        self.heads,
        channels // self.heads,
        self.dropout,
        self.dtype,
        self.attention,
        name='cross',
      )
      tokens = self._norm('norm_cross', x).reshape(len(x), -1, channels)
      x = x + look(tokens, context, train, outside).reshape(x.shape)
    h = self._linear(int(channels * self.mlp_ratio), 'mlp_fc1')(
      self._norm('norm2', x)
    )
    h = nn.gelu(h, approximate=True)
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    return x + self._linear(channels, 'mlp_fc2', self.out_gain)(h)

  def _norm(self, name: str, x: jax.Array) -> jax.Array:
    return norms.LayerNorm(1e-6, self.dtype, affine=False, name=name)(x)

  def _linear(
    self, features: int, name: str, gain: float = 1.0
  ) -> linear.Linear:
    return linear.Linear(
      features,
      dtype=self.dtype,
      kernel_init=init.xavier(gain),
      bias_init=nn.initializers.zeros,
      name=name,
    )
