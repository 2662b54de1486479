"""Programs of a few layers, compiled for the devices of a topology.

Nothing here loads jax before a function is called: jax reads the variables of a
topology when it is loaded.
"""

from collections.abc import Callable
from typing import Any

from pyramid_jax.planning import topologies


def mesh_of(topology: topologies.Topology) -> Any:
  """Prepares this process for a topology; returns a mesh of `data` alone."""
  topologies.prepare(topology)
  from ml_collections import ConfigDict

  return topologies.mesh(topology, ConfigDict(dict(data=-1, fsdp=1, tensor=1)))


def placed(mesh: Any, split: Any, whole: Any) -> tuple[Any, Any]:
  """Gives shapes the places of a batch (`split`) or of weights (`whole`)."""
  import jax

  from pyramid_jax.distributed import mesh as mesh_lib

  def put(tree, sharding):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  rows, everywhere = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
  return put(split, rows), put(whole, everywhere)


def compiled(
  mesh: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[float, int]:
  """Returns the bytes that move, and those of what is temporary, of a chip."""
  import jax

  from pyramid_jax import placement
  from pyramid_jax.planning import program

  traced = jax.jit(placement.within(mesh, function)).trace(*arguments)
  found = traced.lower().compile()
  moved = program.Program.of(found.as_text()).hbm_bytes
  return moved, found.memory_analysis().temp_size_in_bytes
