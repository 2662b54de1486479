"""Programs of a network on arrays of the host, some rows at a time."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from pyramid_jax import placement
from pyramid_jax.distributed import mesh as mesh_lib


def on_host(
  program: Callable[..., Any], variables: Any, size: int, mesh: Mesh
) -> Callable[..., Any]:
  """Returns a function of arrays (N, ...) to a tree of arrays (N, ...).

  Of `size` rows at a time, missing ones are filled up with zeros, so that one
  program serves all; the devices of the mesh, which get the variables, divide
  them. Products are computed in float32.

  Args:
    program: (variables, arrays of `size` rows) -> tree of arrays of as many.
    variables: what the program is given first.
    size: a multiple of the devices.
    mesh: of this process alone.
  """
  variables = jax.device_put(variables, mesh_lib.replicated(mesh))

  @jax.jit
  def run(variables, *rows):
    with placement.on(mesh), jax.default_matmul_precision('highest'):
      return program(variables, *rows)

  def apply(*arrays: np.ndarray) -> Any:
    parts = []
    for start in range(0, len(arrays[0]), size):
      some = [x[start : start + size] for x in arrays]
      count = len(some[0])
      blank = (0, size - count)
      full = {
        str(i): np.pad(x, (blank, *[(0, 0)] * (x.ndim - 1)))
        for i, x in enumerate(some)
      }
      batch = mesh_lib.spread(mesh, full)
      outputs = run(variables, *(batch[name] for name in full))
      parts.append(jax.tree.map(lambda x, n=count: np.asarray(x)[:n], outputs))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

  return apply
