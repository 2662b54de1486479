"""The kernel of attention for TPUs, whose logits stay in the chip's VMEM.

A softmax over blocks of keys with a running maximum and sum (arXiv:2112.05682,
arXiv:2307.08691); the gradients compute the logits again. It differs from jax's
pallas/ops/tpu/flash_attention.py in three points:

- Arrays are (B, H, D, T), tokens last. A TPU stores the last axis in lines of
  128 values and the one before it in lines of 8 or 16, so that heads of 72 or
  40 channels are not padded to 128, neither in HBM nor in a result.
- G tables of a bias serve B rows, each of them B / G consecutive ones. It is
  read once, and its gradient is summed over its rows before it is written.
- Keys are padded to a multiple of 128 and left out of the softmax.
- A step of the grid has several short rows, so that it has enough to do. Where
  all tokens of a row are in a step, one kernel makes all gradients.

Logits and what has their shape are (keys, queries) in a kernel.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from pyramid_jax.networks.layers import remat


LANES = 128  # values of a line; blocks of tokens are multiples of it

# The logits of a step are at most 2 ** 18 values, 1 MiB in float32, and its
# queries or keys 2 ** 19 bytes. So the four kinds of logits of the backward
# pass, a bias and its gradient, and two buffers of all that is read or written
# lie within the 16 MiB of VMEM that every TPU gives to a kernel.
_MAX_LOGITS = 2**18
_MAX_BYTES = 2**19
# The axis that is summed over is one block of up to so many tokens, or is cut
# into blocks of so many.
_MAX_WHOLE = 2048
_PIECE = 256

# An array, or its shape, and the axes of the grid that choose its block: rows,
# heads, queries, keys, the table of a bias, or '.' for all of it.
_Blocked = tuple[str, Any]


def fits(q: jax.Array, k: jax.Array, has_bias: bool) -> bool:
  """Returns whether the kernel takes q (B, T, H, D) and k (B, S, H, D).

  T is a multiple of 128. With a bias neither T nor S is cut where it is summed
  over, or its tables would be read once for every row.
  """
  (_, t, _, width), s = q.shape, padded(k.shape[1])
  line = width * q.dtype.itemsize
  is_whole = all(_inner(n, line) == n for n in (t, s))
  return (
    t % LANES == 0 and line * LANES <= _MAX_BYTES and (is_whole or not has_bias)
  )


def rows_of_step(q: jax.Array, k: jax.Array, group: int) -> int:
  """Returns how many rows a step of the grid has, or has parts of.

  Args:
    q: (B, T, H, D) that `fits`; its shape and its element type are read.
    k: (B, S, H, D).
    group: how many rows share a table of the bias; all where there is none.
  """
  line = q.shape[3] * q.dtype.itemsize
  blocks = _blocks('k', q.shape[1], padded(k.shape[1]), line)
  return _rows(group, blocks, line)


def attend(
  q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, scale: float
) -> jax.Array:
  """Returns softmax(q k * scale + bias) v, (B, T, H, D).

  Args:
    q: (B, T, H, D) that `fits`.
    k: (B, S, H, D), as v.
    bias: (G, H, T, S), where G divides B, or None.
  """
  keys = k.shape[1]
  more = ((0, 0), (0, 0), (0, 0), (0, padded(keys) - keys))
  q, k, v = map(_tokens_last, (q, k, v))
  k, v = jnp.pad(k, more), jnp.pad(v, more)
  if bias is not None:
    bias = jnp.pad(bias, more).swapaxes(2, 3)
  out = _attend(q, k, v, bias, scale, keys)
  b, heads, width, t = out.shape
  return out.reshape(b, -1, t).swapaxes(1, 2).reshape(b, t, heads, width)


def _tokens_last(x: jax.Array) -> jax.Array:
  """Maps (B, T, H, D) to (B, H, D, T).

  Heads and their channels are one axis on the way: what comes before is a
  reshape of such an array, and one that ends in D would be padded to lines.
  """
  b, t, heads, width = x.shape
  return x.reshape(b, t, -1).swapaxes(1, 2).reshape(b, heads, width, t)


def padded(tokens: int) -> int:
  """Returns the number of keys with their padding."""
  return -(-tokens // LANES) * LANES


def _inner(tokens: int, line: int) -> int:
  """Returns the block of the axis that is summed over; a token has `line` B."""
  if tokens <= min(_MAX_WHOLE, _MAX_BYTES // line):
    return tokens
  return _PIECE if tokens % _PIECE == 0 else LANES


def _outer(tokens: int, line: int, inner: int) -> int:
  """Returns the block of the other axis."""
  most = min(_MAX_LOGITS // inner, _MAX_BYTES // line)
  sizes = range(LANES, min(most, tokens) + 1, LANES)
  return max(size for size in sizes if tokens % size == 0)


def _blocks(inner: str, t: int, s: int, line: int) -> dict[str, int]:
  """Returns the tokens of a block of 'q' and of 'k'; `inner` is summed over."""
  sizes = {'q': t, 'k': s}
  (outer,) = sizes.keys() - {inner}
  size = _inner(sizes[inner], line)
  return {inner: size, outer: _outer(sizes[outer], line, size)}


def _rows(group: int, blocks: Mapping[str, int], line: int) -> int:
  """Returns how many of the rows that share a table are in a step."""
  logits, tokens = math.prod(blocks.values()), max(blocks.values())
  most = min(_MAX_LOGITS // logits, _MAX_BYTES // (line * tokens))
  return max(n for n in range(1, max(most, 1) + 1) if group % n == 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Grid:
  """The steps of a kernel, one for every block of logits.

  Attributes:
    order: the axes of the grid, of which the last varies fastest: 'b' rows,
      'h' heads, 'q' queries, 'k' keys.
    sizes: tokens of 'q' and 'k', the number of 'b' and 'h'.
    blocks: of a step, tokens of 'q' and 'k', rows of 'b', one of 'h'.
    group: consecutive rows that share a table of the bias.
    keys: the number of keys without padding.
    scale: factor of the products of queries and keys.
  """

  order: str
  sizes: Mapping[str, int]
  blocks: Mapping[str, int]
  group: int
  keys: int
  scale: float

  @classmethod
  def over(
    cls,
    inner: str,
    q: jax.Array,
    k: jax.Array,
    bias: jax.Array | None,
    keys: int,
    scale: float,
  ) -> '_Grid':
    """Returns the grid of a kernel that sums over the axis `inner`.

    With a bias, rows come one after the other for a block of its table.
    """
    (b, h, width, t), s = q.shape, k.shape[3]
    line = width * q.dtype.itemsize
    blocks = _blocks(inner, t, s, line)
    group = b if bias is None else b // bias.shape[0]
    (outer,) = blocks.keys() - {inner}
    return cls(
      order=f'bh{outer}{inner}' if bias is None else f'h{outer}b{inner}',
      sizes={'b': b, 'h': h, 'q': t, 'k': s},
      blocks={'b': _rows(group, blocks, line), 'h': 1, **blocks},
      group=group,
      keys=keys,
      scale=scale,
    )

  def at(self, axis: str) -> jax.Array:
    """Returns the number of the block along an axis, in a kernel."""
    return pl.program_id(self.order.index(axis))

  def steps(self, axis: str) -> int:
    """Returns the number of blocks along an axis."""
    return self.sizes[axis] // self.blocks[axis]

  def spec(self, axes: str, shape: Sequence[int]) -> pl.BlockSpec:
    """Returns the blocks of an array."""

    def index(*ids):
      place = dict(zip(self.order, ids, strict=True))
      place |= {'g': place['b'] * self.blocks['b'] // self.group, '.': 0}
      return tuple(place[axis] for axis in axes)

    block = {'.': shape[2], 'g': None, 'h': None}
    return pl.BlockSpec(
      tuple(block.get(axis, self.blocks.get(axis)) for axis in axes), index
    )

  def run(
    self,
    kernel: Callable[..., None],
    inputs: Sequence[_Blocked],
    outputs: Sequence[_Blocked],
    sums: Sequence[int],
    products: int,
  ) -> list[Any]:
    """Runs a kernel of all steps.

    Args:
      kernel: gets this grid, and tuples of the references to blocks of the
        inputs, to those of the outputs, and to sums; None of what is None.
      sums: n of each (rows of a step, n, tokens) float32 array that is kept
        while the last axis of the grid varies; tokens are those of a block of
        the other.
      products: matrix products of a step.
    """
    specs = lambda arrays: [
      None if x is None else self.spec(axes, x.shape) for axes, x in arrays
    ]
    outer = self.blocks['q' if self.order[-1] == 'k' else 'k']
    width = inputs[0][1].shape[2]
    logits = self.sizes['b'] * self.sizes['h'] * self.sizes['q'] * self.keys
    arrays = [x for _, x in (*inputs, *outputs) if x is not None]
    begin, end = len(inputs), len(inputs) + len(outputs)
    return pl.pallas_call(
      lambda *refs: kernel(self, refs[:begin], refs[begin:end], refs[end:]),
      grid=tuple(map(self.steps, self.order)),
      name=f'attention{kernel.__name__}',
      in_specs=specs(inputs),
      out_specs=specs(outputs),
      out_shape=[x for _, x in outputs],
      scratch_shapes=[
        pltpu.VMEM((self.blocks['b'], n, outer), jnp.float32) for n in sums
      ],
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=('parallel', 'parallel', 'arbitrary', 'arbitrary')
      ),
      cost_estimate=pl.CostEstimate(
        flops=2 * products * logits * width,
        transcendentals=logits,
        bytes_accessed=sum(
          math.prod(x.shape) * x.dtype.itemsize for x in arrays
        ),
      ),
    )(*(x for _, x in inputs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  bias: jax.Array | None,
  scale: float,
  keys: int,
) -> jax.Array:
  """Maps (B, H, D, T), (B, H, D, S) and (G, H, S, T) to (B, H, D, T)."""
  return _attend_forward(q, k, v, bias, scale, keys)[0]


def _attend_forward(q, k, v, bias, scale, keys):
  grid = _Grid.over('k', q, k, bias, keys, scale)
  b, h, width, t = q.shape
  row = jax.ShapeDtypeStruct((b, h, 1, t), jnp.float32)
  o, lse = grid.run(
    _forward_kernel,
    inputs=[('bh.q', q), ('bh.k', k), ('bh.k', v), ('ghkq', bias)],
    outputs=[('bh.q', _like(q, v.dtype)), ('bh.q', row)],
    sums=[1, 1, width],
    products=2,
  )
  o, lse = remat.fused(o), remat.fused(lse)
  return o, (q, k, v, bias, o, lse)


def _attend_backward(scale, keys, residuals, do):
  q, k, v, bias, o, lse = residuals
  wide = lambda x: x.astype(jnp.float32)
  share = jnp.sum(wide(o) * wide(do), 2, keepdims=True)
  inputs = [('bh.q', q), ('bh.k', k), ('bh.k', v), ('ghkq', bias)]
  inputs += [('bh.q', do), ('bh.q', lse), ('bh.q', share)]
  width = q.shape[2]
  dbias = None if bias is None else _like(bias, jnp.float32)
  of_queries = [('bh.q', _like(q)), ('ghkq', dbias)]
  of_keys = [('bh.k', _like(k)), ('bh.k', _like(v))]
  grid = _Grid.over('k', q, k, bias, keys, scale)
  if grid.steps('q') == grid.steps('k') == 1:
    dq, dbias, dk, dv = grid.run(
      _gradients_kernel, inputs, [*of_queries, *of_keys], sums=[], products=5
    )
  else:
    dq, dbias = grid.run(
      _queries_kernel, inputs, of_queries, sums=[width], products=3
    )
    dk, dv = _Grid.over('q', q, k, bias, keys, scale).run(
      _keys_kernel, inputs, of_keys, sums=[width, width], products=4
    )
  return dq, dk, dv, None if bias is None else dbias.astype(bias.dtype)


_attend.defvjp(_attend_forward, _attend_backward)


def _like(x: jax.Array, dtype: Any = None) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, dtype or x.dtype)


def _dot(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
  """Returns the float32 product over one axis of each of two matrices."""
  numbers = (((axes[0],), (axes[1],)), ((), ()))
  return jax.lax.dot_general(a, b, numbers, preferred_element_type=jnp.float32)


def _logits(grid: _Grid, row: int, q: Any, k: Any, bias: Any) -> jax.Array:
  """Returns the logits (keys, queries) of a row of a step."""
  logits = _dot(k[row], q[row], (0, 0)) * grid.scale
  if bias is not None:
    logits += bias[...].astype(jnp.float32)
  if grid.keys < grid.sizes['k']:
    key = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
    is_key = key + grid.at('k') * grid.blocks['k'] < grid.keys
    logits = jnp.where(is_key, logits, -jnp.inf)
  return logits


def _forward_kernel(grid, inputs, outputs, sums):
  """Adds the values of a block of keys to a block of queries."""
  q, k, v, bias = inputs
  o, lse = outputs
  highest, total, values = sums
  step = grid.at('k')

  @pl.when(step == 0)
  def begin():
    highest[...] = jnp.full_like(highest, -jnp.inf)
    total[...] = jnp.zeros_like(total)
    values[...] = jnp.zeros_like(values)

  for row in range(grid.blocks['b']):
    logits = _logits(grid, row, q, k, bias)
    before = highest[row]
    now = jnp.maximum(before, logits.max(0, keepdims=True))
    weights, rest = jnp.exp(logits - now), jnp.exp(before - now)
    highest[row] = now
    total[row] = rest * total[row] + weights.sum(0, keepdims=True)
    added = _dot(v[row], weights.astype(v.dtype), (1, 0))
    values[row] = rest * values[row] + added

  @pl.when(step == grid.steps('k') - 1)
  def end():
    o[...] = (values[...] / total[...]).astype(o.dtype)
    lse[...] = highest[...] + jnp.log(total[...])


def _gradients(
  grid: _Grid, row: int, inputs: Any
) -> tuple[jax.Array, jax.Array]:
  """Returns the softmax of the logits of a row, and their gradient."""
  q, k, v, bias, do, lse, share = inputs
  weights = jnp.exp(_logits(grid, row, q, k, bias) - lse[row])
  of_weights = _dot(v[row], do[row], (0, 0))
  return weights, weights * (of_weights - share[row])


def _gradients_kernel(grid, inputs, outputs, sums):
  """Makes all gradients of rows that are whole in a step."""
  q, k, do = inputs[0], inputs[1], inputs[4]
  dq, dbias, dk, dv = outputs
  total = None
  for row in range(grid.blocks['b']):
    weights, dlogits = _gradients(grid, row, inputs)
    short = dlogits.astype(k.dtype)
    dq[row] = (_dot(k[row], short, (1, 0)) * grid.scale).astype(dq.dtype)
    dk[row] = (_dot(q[row], short, (1, 1)) * grid.scale).astype(dk.dtype)
    dv[row] = _dot(do[row], weights.astype(do.dtype), (1, 1)).astype(dv.dtype)
    total = dlogits if total is None else total + dlogits
  if dbias is not None:
    _add_to_table(grid, dbias, total)


def _queries_kernel(grid, inputs, outputs, sums):
  """Sums the gradient of queries over keys, and that of a bias over rows."""
  k, (dq, dbias), (total,) = inputs[1], outputs, sums
  step = grid.at('k')

  @pl.when(step == 0)
  def begin():
    total[...] = jnp.zeros_like(total)

  of_table = None
  for row in range(grid.blocks['b']):
    _, dlogits = _gradients(grid, row, inputs)
    total[row] += _dot(k[row], dlogits.astype(k.dtype), (1, 0))
    of_table = dlogits if of_table is None else of_table + dlogits

  @pl.when(step == grid.steps('k') - 1)
  def end():
    dq[...] = (total[...] * grid.scale).astype(dq.dtype)

  if dbias is not None:
    _add_to_table(grid, dbias, of_table)


def _add_to_table(grid, dbias, of_step):
  """Sums the gradient of a table over the steps that have its rows."""
  row = grid.at('b') * grid.blocks['b'] % grid.group

  @pl.when(row == 0)
  def first():
    dbias[...] = of_step

  @pl.when(row > 0)
  def further():
    dbias[...] += of_step


def _keys_kernel(grid, inputs, outputs, sums):
  """Sums the gradients of keys and values over queries."""
  q, do, (dk, dv), (total_k, total_v) = inputs[0], inputs[4], outputs, sums
  step = grid.at('q')

  @pl.when(step == 0)
  def begin():
    total_k[...] = jnp.zeros_like(total_k)
    total_v[...] = jnp.zeros_like(total_v)

  for row in range(grid.blocks['b']):
    weights, dlogits = _gradients(grid, row, inputs)
    total_k[row] += _dot(q[row], dlogits.astype(q.dtype), (1, 1))
    total_v[row] += _dot(do[row], weights.astype(do.dtype), (1, 1))

  @pl.when(step == grid.steps('q') - 1)
  def end():
    dk[...] = (total_k[...] * grid.scale).astype(dk.dtype)
    dv[...] = total_v[...].astype(dv.dtype)
