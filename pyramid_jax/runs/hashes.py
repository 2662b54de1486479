"""Content hashes of arrays that do not depend on how they are sharded.

A checkpoint store checks its own index, not the values: one flipped byte is
restored silently, so every leaf is hashed before a save and after a restore.
A hash is a sum over the values, each mixed with its position in the array.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.distributed import processes
from pyramid_jax.distributed import sharding


# Values that the host hashes at a time: they fit its second-level cache.
_CHUNK = 1 << 15
_SECOND = 0x9E3779B9  # turns the first mixed word into an independent second


def _mix(x):
  """The finalizer of MurmurHash3 on uint32, NumPy or JAX."""
  u32 = np.uint32
  x = x ^ (x >> u32(16))
  x = x * u32(0x85EBCA6B)
  x = x ^ (x >> u32(13))
  x = x * u32(0xC2B2AE35)
  return x ^ (x >> u32(16))


def _words(bits, index):
  first = _mix(bits ^ _mix(index))
  return first, _mix(first ^ np.uint32(_SECOND))


def _unsigned(dtype: np.dtype) -> np.dtype:
  """Of the same width; 64 bits are two words."""
  return np.dtype(f'uint{min(32, dtype.itemsize * 8)}')


@jax.jit
def _on_device(x: jax.Array) -> jax.Array:
  """Returns the (2,) uint32 hash of an array."""
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, _unsigned(x.dtype))
  index = jnp.zeros(bits.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(bits.ndim)):
    place = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    index += place * np.uint32(stride % 2**32)
    stride *= bits.shape[axis]
  words = _words(bits.astype(jnp.uint32), index)
  return jnp.stack([w.sum(dtype=jnp.uint32) for w in words])


def _on_host(x: np.ndarray) -> np.ndarray:
  """Returns what `_on_device` does."""
  x = np.ascontiguousarray(x).reshape(-1)
  bits = x.view(_unsigned(x.dtype))
  total = np.zeros(2, np.uint32)
  for start in range(0, bits.size, _CHUNK):
    part = bits[start : start + _CHUNK].astype(np.uint32)
    index = np.arange(start, start + part.size, dtype=np.uint64)
    words = _words(part, index.astype(np.uint32))
    total += np.stack([w.sum(dtype=np.uint32) for w in words])
  return total


def tree(values: Any) -> dict[str, str]:
  """Returns {path: 16 hexadecimal digits} of a tree of arrays.

  Arrays of accelerators are hashed there, one small program per shape; those
  of CPU devices by NumPy, which has nothing to compile. An array that is split
  over processes is hashed by all of them.
  """

  def one(x: Any) -> Any:
    if isinstance(x, jax.Array):
      is_here = x.is_fully_addressable or x.is_fully_replicated
      if not is_here or any(d.platform != 'cpu' for d in x.devices()):
        return _on_device(x)
    return _on_host(np.asarray(x))

  leaves = jax.tree_util.tree_leaves_with_path(values)
  hashes = [one(leaf) for _, leaf in leaves]
  return {
    sharding.path_name(path): f'{int(h[0]):08x}{int(h[1]):08x}'
    for (path, _), h in zip(leaves, processes.to_host(hashes), strict=True)
  }


def digest(values: Any) -> str:
  """Returns one hash of a tree: of its paths and the hashes there."""
  return hashlib.sha256(repr(tree(values)).encode()).hexdigest()[:16]
