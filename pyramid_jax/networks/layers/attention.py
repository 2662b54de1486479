"""The attention function that every network of this library calls."""

import jax
import jax.numpy as jnp


IMPLEMENTATIONS = (None, 'xla', 'cudnn')

# The fused kernel's limits: element types, widest head, and its multiple.
_CUDNN_DTYPES = (jnp.bfloat16, jnp.float16)
_CUDNN_MAX_HEAD_DIM = 128
_CUDNN_HEAD_DIM_MULTIPLE = 8


def dot_product_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  bias: jax.Array | None = None,
  scale: float | None = None,
  implementation: str | None = None,
) -> jax.Array:
  """Softmax attention with logits and weights computed in float32.

  Args:
    q: (B, T, H, D) queries.
    k: (B, S, H, D) keys.
    v: (B, S, H, D) values.
    bias: added to the scaled logits, broadcastable to (B, H, T, S).
    scale: factor of the logits, D ** -0.5 when None.
    implementation: 'xla', 'cudnn' (the fused GPU kernel), or None: 'cudnn'
      where the platform and the arguments allow it, else 'xla'.

  Returns:
    (B, T, H, D) in the element type of `v`.

  Raises:
    ValueError: a shape that does not fit, or an unknown implementation.
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
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f'implementation is {implementation!r}, allowed: {IMPLEMENTATIONS}.'
    )
  if implementation is None:
    fused = bias is None and _cudnn_fits(q, k, v)
    implementation = 'cudnn' if fused else 'xla'
  if scale is None:
    scale = q.shape[-1] ** -0.5
  if implementation == 'cudnn':
    return jax.nn.dot_product_attention(
      q, k, v, bias, scale=scale, implementation='cudnn'
    )
  return _matmul_attention(q, k, v, bias, scale)


def _matmul_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  bias: jax.Array | None,
  scale: float,
) -> jax.Array:
  # Heads next to the batch make both products plain batched matmuls, which on
  # a CPU run up to twice as fast as the same contraction over (B, T, H, D).
  q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
  logits = jnp.matmul(
    q, jnp.swapaxes(k, 2, 3), preferred_element_type=jnp.float32
  )
  logits = logits * scale
  if bias is not None:
    logits = logits + bias
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.swapaxes(jnp.matmul(weights, v), 1, 2)


def _cudnn_fits(q: jax.Array, k: jax.Array, v: jax.Array) -> bool:
  head_dim = q.shape[-1]
  return (
    q.dtype in _CUDNN_DTYPES
    and q.dtype == k.dtype == v.dtype
    and head_dim <= _CUDNN_MAX_HEAD_DIM
    and head_dim % _CUDNN_HEAD_DIM_MULTIPLE == 0
    and jax.default_backend() == 'gpu'
    and float(getattr(jax.devices()[0], 'compute_capability', '0')) >= 8.0
  )
