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
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import Mesh
from jax.sharding import PartitionSpec


# Batches are split over the first two, parameters over the last two.
AXES = DATA, FSDP, TENSOR = 'data', 'fsdp', 'tensor'
BATCH_AXES = DATA, FSDP


class IndivisibleError(ValueError):
  """The axis `TENSOR` of a mesh does not divide what it has to split."""


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
    spec = _rows_spec(x)
    if spec[:1] != [BATCH_AXES]:
      return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))

  return jax.tree.map(split, tree)


def whole(x: jax.Array) -> jax.Array:
  """Gives every device all of a parameter, while a layer uses it.

  Without it, XLA may bring the rows of a batch to the parts of a table instead.
  """
  if not sizes():
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec())


def split(x: jax.Array, axis: int, what: str) -> jax.Array:
  """Splits the first axis as `rows` does, and another over `TENSOR`.

  It is that between two layers whose kernels `sharding.RULES` splits.

  Args:
    x: (B, ...).
    axis: the one that `TENSOR` splits.
    what: its contents, for the message.

  Raises:
    IndivisibleError: `TENSOR` does not divide the axis.
  """
  size = sizes().get(TENSOR, 1)
  if size == 1:
    return x
  if x.shape[axis] % size:
    raise IndivisibleError(
      f'config.mesh.tensor={size} does not divide the {x.shape[axis]} {what} of'
      ' a layer.'
    )
  spec = _rows_spec(x)
  spec[axis] = TENSOR
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def looked_up(table: jax.Array, ids: jax.Array) -> jax.Array:
  """Returns rows (B, ..., C) of a table (N, C), for ids (B, ...) from 0 to N.

  Where `FSDP` splits the rows of the batch and the columns of the table, each
  device finds its columns for all devices along that axis; then they exchange
  those for the other columns of their own rows. So the table is not gathered,
  and neither is its gradient. A table that has no more rows than a device looks
  up is gathered instead, which moves less.
  """
  count = sizes().get(FSDP, 1)
  if count == 1 or ids.shape[0] % parts() or table.shape[1] % count:
    return jnp.take(table, ids, axis=0)
  if table.shape[0] <= ids.size // parts():
    return jnp.take(whole(table), ids, axis=0)
  place = jax.lax.with_sharding_constraint
  between = (None,) * (ids.ndim - 1)
  with jax.named_scope('looked_up'):
    found = jnp.take(table, place(ids, PartitionSpec(DATA)), axis=0)
    found = place(found, PartitionSpec(DATA, *between, FSDP))
    return place(found, PartitionSpec(BATCH_AXES))


def groups(kernel: jax.Array) -> jax.Array:
  """Splits the columns of each group of a kernel (C, G, D) over `TENSOR`.

  Kernels without groups, (C, D), stay as they are.
  """
  there = sizes()
  if kernel.ndim == 2 or there.get(TENSOR, 1) == 1:
    return kernel
  rows, _, columns = kernel.shape
  fsdp = FSDP if rows % there[FSDP] == 0 else None
  tensor = TENSOR if columns % there[TENSOR] == 0 else None
  spec = PartitionSpec(fsdp, None, tensor)
  return jax.lax.with_sharding_constraint(kernel, spec)


def _rows_spec(x: jax.Array) -> list[Any]:
  """Returns the axes of a mesh that split x, its rows if they are split."""
  spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
  if x.ndim and x.shape[0] > 1 and x.shape[0] % parts() == 0:
    spec[0] = BATCH_AXES
  return spec
