"""What the benchmarks share: weights to run with, a stopwatch, a count."""

from collections.abc import Callable
from collections.abc import Iterator
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def random_params(init: Callable[[jax.Array], Any]) -> Any:
  """Random weights; the zero-initialised layers are filled too.

  Args:
    init: key -> variables of a module.
  """
  shapes = jax.eval_shape(init, jax.random.key(0))['params']
  rng = np.random.default_rng(0)

  def fill(leaf):
    fan_in = max(1, int(np.prod(leaf.shape[:-1])))
    values = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
    return jnp.asarray(values + (len(leaf.shape) == 1), jnp.float32)

  return jax.tree.map(fill, shapes)


def device_params(shapes: Any) -> Any:
  """Weights made on the device, for trees too large to send: sines.

  Args:
    shapes: tree of float32 shapes; axes in front of the last two of a stacked
      kernel count as layers or as its window.
  """

  @jax.jit
  def fill(step):  # an argument, so that no compiler computes them beforehand
    def sines(leaf):
      place = jnp.arange(math.prod(leaf.shape), dtype=jnp.float32)
      fan_in = leaf.shape[-2] if len(leaf.shape) > 1 else 1
      return jnp.sin(step * place).reshape(leaf.shape) / fan_in**0.5

    return jax.tree.map(sines, shapes)

  return fill(jnp.float32(0.37))


def best(run: Callable[[], Any], rounds: int) -> float:
  """Returns the shortest of some timings, after one that does not count."""
  jax.block_until_ready(run())
  times = []
  for _ in range(rounds):
    start = time.monotonic()
    jax.block_until_ready(run())
    times.append(time.monotonic() - start)
  return min(times)


def macs(function: Callable[..., Any], *args: Any) -> int:
  """Returns the multiplications of all products and convolutions.

  Counted in the traced program, so that they do not depend on what a compiler
  makes of it.

  Args:
    function: traceable.
    *args: its arguments, or their shapes.
  """
  return _macs(jax.make_jaxpr(function)(*args).jaxpr)


def _macs(jaxpr: Any) -> int:
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      sides = eqn.invars[0].aval.shape
      total += eqn.outvars[0].aval.size * math.prod(
        sides[axis] for axis in contracted
      )
    elif eqn.primitive.name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval.shape
      out_axis = eqn.params['dimension_numbers'].rhs_spec[0]
      total += eqn.outvars[0].aval.size * math.prod(kernel) // kernel[out_axis]
    else:
      times = eqn.params.get('length', 1)  # of a scan
      total += times * sum(_macs(inner) for inner in _inner(eqn.params))
  return total


def _inner(params: Any) -> Iterator[Any]:
  """Yields the programs that an operation runs."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if hasattr(item, 'jaxpr'):
        yield item.jaxpr
      elif hasattr(item, 'eqns'):
        yield item
