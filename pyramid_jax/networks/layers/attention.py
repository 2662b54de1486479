"""The one attention function: every attention in the package calls it."""

from collections.abc import Callable
from collections.abc import Mapping
import functools
import math

from absl import logging
from einops import rearrange
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pyramid_jax import placement
from pyramid_jax.networks.layers import flash
from pyramid_jax.networks.layers import remat


IMPLEMENTATIONS = ('auto', 'xla', 'cudnn', 'flash')

# Limits of the kernel of cuDNN: GPUs, element types, the multiple of a head's
# width, and the widest of GPUs from some capability on, newest first.
_CUDNN_CAPABILITY = 8.0
_CUDNN_DTYPES = (jnp.bfloat16, jnp.float16)
_CUDNN_HEAD_DIM_MULTIPLE = 8
_CUDNN_MAX_HEAD_DIM = ((9.0, 256), (_CUDNN_CAPABILITY, 128))
# With a bias: the oldest GPUs whose kernel gives its gradient too, and the
# lowest value (in place of minus infinity) that the kernel computes with.
_CUDNN_BIAS_CAPABILITY = 9.0
_CUDNN_LOWEST = {'bfloat16': -(2.0**41), 'float16': -(2.0**15)}

# The flash kernel is chosen where a head has so many logits, of one row or of
# the short ones that a step of the grid has together. It moves less than XLA's
# attention at all sizes that were planned (docs/compiler.md), but a step has a
# cost of its own, which fewer may not earn back. On a TPU nobody has measured
# where it begins to pay.
_FLASH_MIN_LOGITS = 2**18

_PLATFORMS = {'cudnn': 'gpu', 'flash': 'tpu'}

# Computes an attention of (q, k, v, bias).
_Kernel = Callable[
  [jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array
]


def dot_product_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  bias: jax.Array | None = None,
  bias_of: Callable[[jax.Array], jax.Array] | None = None,
  scale: float | None = None,
  implementation: str = 'auto',
) -> jax.Array:
  """Softmax attention with logits and weights computed in float32.

  Maps queries (B, T, H, D), keys and values (B, S, H, D) to (B, T, H, D) in
  the element type of `v`.

  Args:
    bias: added to the scaled logits, broadcastable to (B, H, T, S); the
      kernel of cuDNN takes it in the element type of `q`.
    bias_of: makes the bias (H, T, S) of `bias`, which then is a table with a
      column for each head (..., H). Devices sum the gradient of the table, not
      that of the bias.
    scale: factor of the logits, D ** -0.5 when None.
    implementation: one of `IMPLEMENTATIONS`, see `choose`.

  Raises:
    ValueError: shapes that do not fit, or what `check` refuses.
  """
  if q.ndim != 4 or k.shape != v.shape or k.ndim != 4:
    raise ValueError(
      'attention takes q (B, T, H, D) and k, v (B, S, H, D), got '
      f'{q.shape}, {k.shape}, {v.shape}.'
    )
  if (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
    raise ValueError(
      f'q {q.shape} and k {k.shape} must agree in all but the token axis.'
    )
  tables = 0 if bias is None else 1
  if bias is not None and bias_of is None and bias.ndim == 4:
    tables = len(bias)
  name = choose(implementation, q, k, v, tables=tables)
  if scale is None:
    scale = q.shape[-1] ** -0.5
  _log(name, placement.platform(), q.shape[1:], k.shape[1])
  kernel = _with_bias_of(
    functools.partial(_KERNELS[name], scale=scale), bias_of
  )
  if name == 'xla' and (bias_of is None or not _divides(q)):
    out = kernel(q, k, v, bias)
  else:
    out = _on_each_device(kernel, q, k, v, bias, bias_of is not None)
  return remat.attended(out) if name == 'xla' else out


def choose(
  implementation: str,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  tables: int = 0,
) -> str:
  """Returns which kernel computes an attention: 'xla', 'cudnn' or 'flash'.

  'auto' takes the fused kernel of the platform that will run the program where
  it is worth it, 'cudnn' and 'flash' wherever it takes the arguments; the rest
  (wide heads, odd numbers of tokens, rows that do not divide among the devices)
  is left to 'xla'. Of q, k and v only shapes and element types are read.

  Args:
    tables: of a bias, 1 or one for each row; 0 without.
  """
  platform = placement.platform()
  check(implementation, platform)
  if implementation == 'xla' or not _divides(q):
    return 'xla'
  if platform == 'gpu' and _cudnn_fits(q, k, v, tables > 0):
    return 'cudnn'
  if platform != 'tpu' or not flash.fits(q, k, tables > 0):
    return 'xla'
  rows = q.shape[0] // _parts(q)
  together = flash.rows_of_step(q, k, rows if tables <= 1 else 1)
  logits = together * q.shape[1] * flash.padded(k.shape[1])
  worth_it = implementation == 'flash' or logits >= _FLASH_MIN_LOGITS
  return 'flash' if worth_it else 'xla'


@functools.cache
def _log(
  name: str, platform: str, of_query: tuple[int, int, int], keys: int
) -> None:
  """Logs once which kernel computes an attention, where there is a choice."""
  queries, heads, width = of_query
  if platform != 'cpu':
    text = 'attention of %d x %d tokens, %d heads x %d: %s on %s'
    logging.info(text, queries, keys, heads, width, name, platform)


def check(implementation: str, platform: str) -> None:
  """Raises ValueError for an unknown implementation, or of other platforms.

  `platform` is 'cpu', 'gpu' or 'tpu', as `placement.platform` names them.
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f'attention is {implementation!r}, allowed: {", ".join(IMPLEMENTATIONS)}.'
    )
  needed = _PLATFORMS.get(implementation, platform)
  if needed != platform:
    raise ValueError(
      f'attention {implementation!r} runs on {needed}, this is {platform}; '
      "use 'auto'."
    )


def _axes(heads: int) -> tuple[tuple[str, ...], str | None]:
  """Returns the mesh axes of the rows and the one of the heads, if any.

  Heads that the tensor axis does not divide stay together, and rows are split
  over that axis too, so that no device repeats the work of another.
  """
  if heads % placement.sizes().get(placement.TENSOR, 1):
    return placement.AXES, None
  return placement.BATCH_AXES, placement.TENSOR


def _divides(q: jax.Array) -> bool:
  """Returns whether a kernel can have its part of the rows on each device.

  Without a mesh nothing says which rows a device has.
  """
  if placement.mesh() is None and placement.platform() == 'tpu':
    return jax.device_count() == 1
  return q.shape[0] % _parts(q) == 0


def _parts(q: jax.Array) -> int:
  """Returns how many parts the rows are split into."""
  sizes = placement.sizes()
  rows, _ = _axes(q.shape[2])
  return math.prod(sizes.get(axis, 1) for axis in rows)


def _with_bias_of(
  kernel: _Kernel, bias_of: Callable[[jax.Array], jax.Array] | None
) -> _Kernel:
  """Returns a kernel that takes what its bias is made of."""

  def attend(q, k, v, bias):
    made = bias if bias is None or bias_of is None else bias_of(bias)
    return kernel(q, k, v, made)

  return attend


def _on_each_device(
  kernel: _Kernel,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  bias: jax.Array | None,
  is_table: bool,
) -> jax.Array:
  """Runs a kernel, which XLA cannot split, on each device's rows and heads.

  A bias that all rows share is whole on each device; its gradient is the sum
  of those of the devices, in its own element type.

  Args:
    is_table: whether the last axis of the bias is that of the heads, and it has
      none for rows.
  """
  if placement.mesh() is None:
    return kernel(q, k, v, bias)
  rows, heads = _axes(q.shape[2])
  spec = PartitionSpec(rows, None, heads)
  of_bias = PartitionSpec()
  if is_table:
    assert bias is not None
    of_bias = PartitionSpec(*(None,) * (bias.ndim - 1), heads)
  elif bias is not None:
    bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
    split = lambda axis, names: None if bias.shape[axis] == 1 else names
    of_bias = PartitionSpec(split(0, rows), split(1, heads))
  return jax.shard_map(
    kernel,
    mesh=placement.mesh(),
    in_specs=(spec, spec, spec, of_bias),
    out_specs=spec,
    check_vma=False,  # kernels do not say over which axes their results vary
  )(q, k, v, bias)


def _matmul_attention(
  q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, scale: float
) -> jax.Array:
  # Heads next to the batch make both products plain batched matmuls, which on
  # a CPU run up to twice as fast as the same contraction over (B, T, H, D).
  q, k, v = (rearrange(x, 'b t h d -> b h t d') for x in (q, k, v))
  wide = jnp.promote_types(q.dtype, jnp.float32)
  logits = jnp.matmul(q, jnp.swapaxes(k, 2, 3), preferred_element_type=wide)
  logits = logits * scale
  if bias is not None:
    logits = logits + bias
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return rearrange(jnp.matmul(weights, v), 'b h t d -> b t h d')


def _whole_bias(bias: jax.Array, q: jax.Array, k: jax.Array) -> jax.Array:
  """Returns the bias as (B or 1, H, T, S)."""
  bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
  return jnp.broadcast_to(
    bias, (bias.shape[0], q.shape[2], q.shape[1], k.shape[1])
  )


def _cudnn_attention(
  q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, scale: float
) -> jax.Array:
  if bias is not None:
    lowest = _CUDNN_LOWEST[q.dtype.name]
    bias = _whole_bias(jnp.maximum(bias, lowest).astype(q.dtype), q, k)
  return jax.nn.dot_product_attention(
    q, k, v, bias=bias, scale=scale, implementation='cudnn'
  )


def _flash_attention(
  q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, scale: float
) -> jax.Array:
  if bias is not None:
    bias = _whole_bias(bias, q, k)
  return flash.attend(q, k, v, bias, scale)


def _cudnn_fits(
  q: jax.Array, k: jax.Array, v: jax.Array, has_bias: bool
) -> bool:
  capability, head_dim = placement.capability(), q.shape[-1]
  widest = (w for least, w in _CUDNN_MAX_HEAD_DIM if capability >= least)
  fits = (
    q.dtype in _CUDNN_DTYPES
    and q.dtype == k.dtype == v.dtype
    and head_dim <= next(widest, 0)
    and head_dim % _CUDNN_HEAD_DIM_MULTIPLE == 0
  )
  if not has_bias:
    return fits
  is_even = q.shape[1] % 2 == k.shape[1] % 2 == 0
  return fits and is_even and capability >= _CUDNN_BIAS_CAPABILITY


_KERNELS: Mapping[str, Callable[..., jax.Array]] = {
  'xla': _matmul_attention,
  'cudnn': _cudnn_attention,
  'flash': _flash_attention,
}
