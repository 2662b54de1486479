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
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval
import numpy as np
import scipy


# Sizes of draws: each is one compilation, so they are few.
_DRAWS = tuple(1 << n for n in range(10, 63, 3))


def evaluate(function: Callable[..., Any], *args: Any) -> Any:
  """Returns `function(*args)` as NumPy arrays, operation by operation.

  It is meant for the `init` of a system; the arguments are trees of arrays.
  """
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
  jaxpr, used = partial_eval.dce_jaxpr(
    closed.jaxpr, [True] * len(closed.jaxpr.outvars)
  )
  flat = [a for a, u in zip(jax.tree.leaves(args), used, strict=True) if u]
  values = _run(jaxpr, closed.consts, flat)
  return jax.tree.unflatten(
    jax.tree.structure(shapes), [np.asarray(v) for v in values]
  )


def place(values: Any, shardings: Any) -> Any:
  """Puts host arrays, the same in every process, into their shardings.

  Every shard is made from a copy of its own. On CPUs jax may use the memory
  of a NumPy array as it is, for several devices at once and whatever
  `may_alias` says, and these buffers are donated to the first step.
  """

  def put(value: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    indices = sharding.addressable_devices_indices_map(value.shape)
    shards = [
      jax.device_put(np.array(value[index]), device)
      for device, index in indices.items()
    ]
    return jax.make_array_from_single_device_arrays(
      value.shape, sharding, shards
    )

  return jax.tree.map(put, values, shardings)


def _run(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
  """Evaluates a jaxpr, by NumPy where it can."""
  known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
  known.update(zip(jaxpr.invars, args, strict=True))

  def read(atom: Any) -> Any:
    if isinstance(atom, core.Literal):
      aval: Any = atom.aval
      return np.asarray(atom.val, aval.dtype)
    return known[atom]

  for eqn in jaxpr.eqns:
    values = [read(atom) for atom in eqn.invars]
    name = eqn.primitive.name
    if name in _CALLS:
      inner = eqn.params['jaxpr']
      results = _run(
        getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ()), values
      )
    elif name in _NUMPY or name in _RULES:
      plain = _NUMPY.get(name)
      result = plain(*values) if plain else _RULES[name](eqn.params, *values)
      results = [np.asarray(result, eqn.outvars[0].aval.dtype)]
    else:
      results = eqn.primitive.bind(*values, **eqn.params)
      results = results if eqn.primitive.multiple_results else [results]
    known.update(zip(eqn.outvars, results, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _bits(params: Mapping[str, Any], key: jax.Array) -> np.ndarray:
  """`random_bits` of one key, cut from a longer draw."""
  shape = params['shape']
  size = int(np.prod(shape))
  drawn = next(n for n in _DRAWS if n >= size)
  dtype = np.dtype(f'uint{params["bit_width"]}')
  if key.shape:  # several keys at once: no prefix to cut
    return np.asarray(jax.vmap(lambda k: jax.random.bits(k, shape, dtype))(key))
  return np.asarray(jax.random.bits(key, (drawn,), dtype))[:size].reshape(shape)


def _broadcast(params: Mapping[str, Any], x: Any, *_: Any) -> np.ndarray:
  shape = params['shape']
  ones = np.ones(len(shape), int)
  ones[list(params['broadcast_dimensions'])] = np.shape(x)
  return np.broadcast_to(np.reshape(x, ones), shape)


# Primitives that hold a jaxpr and just run it.
_CALLS = ('jit', 'pjit', 'remat2', 'checkpoint', 'closed_call')
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
