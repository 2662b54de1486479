"""Where the arrays of a program lie while it is traced.

Whatever compiles a program traces it within `on(mesh)`. Networks, samplers and
losses below say how their arrays are split (`rows`), and choose code by the
platform that will run it (`platform`), which may be another than that of this
process: a program for a TPU pod is compiled on a laptop. Outside of `on`
nothing is split, and the platform is jax's default.
"""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import functools
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh
from jax.sharding import Mesh
from jax.sharding import PartitionSpec


# Batches are split over the first two, parameters over the last two.
AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')
TENSOR = 'tensor'


def on(mesh: Mesh | AbstractMesh) -> contextlib.AbstractContextManager[Any]:
  """Returns the context in which a program for the devices of a mesh is traced.

  It is entered within the function that `jax.jit` traces.
  """
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def within(
  mesh: Mesh | AbstractMesh, function: Callable[..., Any]
) -> Callable[..., Any]:
  """Returns a function that is traced within `on(mesh)`."""

  @functools.wraps(function)
  def placed(*arguments: Any, **named: Any) -> Any:
    with on(mesh):
      return function(*arguments, **named)

  return placed


def mesh() -> AbstractMesh | None:
  """Returns the mesh of the program that is being traced, None without one."""
  found = jax.sharding.get_abstract_mesh()
  return None if found.empty else found


def platform() -> str:
  """Returns what will run the program: 'cpu', 'gpu' or 'tpu'."""
  here = mesh()
  device = None if here is None else here.abstract_device
  name = jax.default_backend() if device is None else device.platform
  return {'cuda': 'gpu', 'rocm': 'gpu'}.get(name, name)


def capability() -> float:
  """Returns the compute capability of the GPUs of this process, 0 without.

  Kernels of cuDNN are chosen by it; jax traces them for its own GPUs only.
  """
  return float(getattr(jax.devices()[0], 'compute_capability', '0'))


def sizes() -> Mapping[str, int]:
  """Returns the number of devices along each axis, {} without a mesh."""
  here = mesh()
  return {} if here is None else dict(here.shape)


def parts() -> int:
  """Returns how many parts a batch is split into, 1 without a mesh."""
  there = sizes()
  return math.prod(there.get(axis, 1) for axis in BATCH_AXES)


def rows(tree: Any) -> Any:
  """Splits the first axis of arrays over `BATCH_AXES`, in both directions.

  Their other axes are free: XLA may split them over `tensor`. An array whose
  rows do not divide among the parts of a batch, or that has one row for all
  examples, stays as it is. Gradients are split as their arrays are.
  """
  count = parts()
  if count == 1:
    return tree

  def split(x: jax.Array) -> jax.Array:
    if not x.ndim or x.shape[0] == 1 or x.shape[0] % count:
      return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    spec = PartitionSpec(BATCH_AXES, *free)
    return jax.lax.with_sharding_constraint(x, spec)

  return jax.tree.map(split, tree)


def whole(x: jax.Array) -> jax.Array:
  """Gives every device all of a parameter, while a layer uses it.

  Without it, XLA may bring the rows of a batch to the parts of a table instead.
  """
  if not sizes():
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec())
