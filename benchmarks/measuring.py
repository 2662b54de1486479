"""What the benchmarks share: weights to run with, and a stopwatch."""

from collections.abc import Callable
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


def best(run: Callable[[], Any], rounds: int) -> float:
  """Returns the shortest of some timings, after one that does not count."""
  jax.block_until_ready(run())
  times = []
  for _ in range(rounds):
    start = time.monotonic()
    jax.block_until_ready(run())
    times.append(time.monotonic() - start)
  return min(times)
