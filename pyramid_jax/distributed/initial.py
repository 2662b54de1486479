"""Initial values without a compilation.

A jitted `init` unrolls the random number generator once for every parameter:
minutes of compilation for a second of arithmetic. Here `init` is only traced,
the forward pass is removed as dead code, and NumPy evaluates the rest, a few
elementwise operations. Random bits come from `jax.random.bits` at a few sizes
only: the first n bits of a longer draw are those of a shorter one. So the
values are those of `jax.jit(init)`, whatever the mesh.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend import random
from jax.interpreters import partial_eval
import jax.numpy as jnp
import numpy as np
import scipy

from pyramid_jax.distributed import value_graph


# Sizes of draws: each is one compilation, so they are few. A longer draw is
# made of several of the last size.
_DRAWS = tuple(1 << n for n in range(10, 23, 3))
_LONGEST = _DRAWS[-1]


def evaluate(function: Callable[..., Any], *args: Any) -> Any:
  """Returns `function(*args)` as NumPy arrays, operation by operation.

  It is meant for the `init` of a system; the arguments are trees of arrays.
  """
  return _mapped(function, args, lambda place, value: value)


def create(shardings: Any, function: Callable[..., Any], *args: Any) -> Any:
  """Returns `function(*args)` in shardings, a tree of the same structure.

  Every leaf is placed before the next is evaluated, so that the host holds the
  largest leaf and what its devices hold there. See `evaluate` and `place`.
  """
  flat = jax.tree.leaves(shardings)
  return _mapped(function, args, lambda i, value: _put(value, flat[i]))


def _mapped(
  function: Callable[..., Any],
  args: tuple[Any, ...],
  use: Callable[[int, np.ndarray], Any],
) -> Any:
  """Returns the tree of what `use` makes of each leaf, given its number."""
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
  jaxpr, used = partial_eval.dce_jaxpr(
    closed.jaxpr, [True] * len(closed.jaxpr.outvars)
  )
  flat = [a for a, u in zip(jax.tree.leaves(args), used, strict=True) if u]
  graph = value_graph.Graph(jaxpr, closed.consts, flat)
  found: list[Any] = [None] * len(graph.outputs)

  def finish(place: int, value: Any) -> None:
    found[place] = use(place, np.asarray(value))

  value_graph.evaluate(graph, _apply, finish)
  return jax.tree.unflatten(jax.tree.structure(shapes), found)


def place(values: Any, shardings: Any) -> Any:
  """Puts host arrays, the same in every process, into their shardings.

  Every shard is made from a copy of its own. On CPUs jax may use the memory
  of a NumPy array as it is, for several devices at once and whatever
  `may_alias` says, and these buffers are donated to the first step.
  """

  return jax.tree.map(_put, values, shardings)


def _put(value: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
  indices = sharding.addressable_devices_indices_map(value.shape)
  shards = [
    jax.device_put(np.array(value[index]), device)
    for device, index in indices.items()
  ]
  return jax.make_array_from_single_device_arrays(value.shape, sharding, shards)


def _apply(
  operation: value_graph.Operation, values: Sequence[Any]
) -> Sequence[Any]:
  """Does an operation, by NumPy where it can."""
  primitive, params = operation.primitive, operation.params
  if plain := _NUMPY.get(primitive.name):
    return [np.asarray(plain(*values), operation.dtype)]
  if rule := _RULES.get(primitive.name):
    return [np.asarray(rule(params, *values), operation.dtype)]
  results = primitive.bind(*values, **params)
  return results if primitive.multiple_results else [results]


def _bits(params: Mapping[str, Any], key: jax.Array) -> np.ndarray:
  """`random_bits` of one key, cut from a longer draw."""
  shape = params['shape']
  size = int(np.prod(shape))
  dtype = np.dtype(f'uint{params["bit_width"]}')
  if key.shape:  # several keys at once: no prefix to cut
    return np.asarray(jax.vmap(lambda k: jax.random.bits(k, shape, dtype))(key))
  if size <= _LONGEST:
    drawn = next(n for n in _DRAWS if n >= size)
    bits = np.asarray(jax.random.bits(key, (drawn,), dtype))[:size]
  elif dtype.itemsize == 4 and _is_counted(key):
    bits = _long_draw(key, size)
  else:
    bits = np.asarray(jax.random.bits(key, (size,), dtype))
  return bits.reshape(shape)


def _is_counted(key: jax.Array) -> bool:
  """Whether a bit of a draw depends on the key and its place alone."""
  is_threefry = str(jax.random.key_impl(key)) == 'threefry2x32'
  is_split: bool = jax.config.jax_threefry_partitionable  # type: ignore
  return is_threefry and is_split


def _long_draw(key: jax.Array, size: int) -> np.ndarray:
  """Returns what `jax.random.bits` does, part by part."""
  pair = tuple(jax.random.key_data(key))
  bits = np.empty(size, np.uint32)
  for start in range(0, size, _LONGEST):
    high, low = divmod(start, 1 << 32)
    part = _part_of_draw(pair, np.uint32(high), np.uint32(low))
    bits[start : start + _LONGEST] = part[: size - start]
  return bits


@jax.jit
def _part_of_draw(pair: Any, high: Any, low: Any) -> jax.Array:
  """Returns `_LONGEST` words of a draw, from a multiple of that number on."""
  lows = low + jnp.arange(_LONGEST, dtype=jnp.uint32)
  counts = jnp.concatenate([jnp.full_like(lows, high), lows])
  one, other = jnp.split(random.threefry_2x32(pair, counts), 2)
  return one ^ other


def _broadcast(params: Mapping[str, Any], x: Any, *_: Any) -> np.ndarray:
  shape = params['shape']
  ones = np.ones(len(shape), int)
  ones[list(params['broadcast_dimensions'])] = np.shape(x)
  return np.broadcast_to(np.reshape(x, ones), shape)


_NUMPY: dict[str, Callable[..., Any]] = {
  'add': np.add,
  'copy': np.array,
  'div': np.divide,
  'erf': lambda x: scipy.special.erf(x),  # loaded when it is needed
  'erf_inv': lambda x: scipy.special.erfinv(x),
  'max': np.maximum,
  'min': np.minimum,
  'mul': np.multiply,
  'neg': np.negative,
  'nextafter': np.nextafter,
  'or': np.bitwise_or,
  'shift_right_logical': np.right_shift,
  'sqrt': np.sqrt,
  'sub': np.subtract,
}
# Primitives with parameters.
_RULES: dict[str, Callable[..., Any]] = {
  'bitcast_convert_type': lambda p, x: np.ascontiguousarray(x).view(
    p['new_dtype']
  ),
  'broadcast_in_dim': _broadcast,
  'convert_element_type': lambda p, x: np.asarray(x).astype(p['new_dtype']),
  'random_bits': _bits,
  'reshape': lambda p, x: np.reshape(x, p['new_sizes']),
  'stop_gradient': lambda p, x: x,
}
