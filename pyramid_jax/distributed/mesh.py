"""The devices of a run as a mesh, and batches on it."""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.distributed import processes


# Batches are split over the first two, parameters over the last two.
AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')


def create(
  config: ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns the mesh of `config.mesh`: a size for every axis, -1 = the rest.

  Its devices are those of all processes by default; sizes that do not multiply
  to their number are a ValueError.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [config[axis] for axis in AXES]
  known = math.prod(size for size in sizes if size != -1)
  wish = ', '.join(f'{a}={s}' for a, s in zip(AXES, sizes, strict=True))
  if sizes.count(-1) > 1:
    raise ValueError(f'config.mesh has {wish}, at most one size may be -1.')
  if -1 in sizes and len(devices) % known == 0:
    sizes[sizes.index(-1)] = len(devices) // known
  if math.prod(sizes) != len(devices):
    raise ValueError(
      f'config.mesh has {wish}, must multiply to the {len(devices)} devices '
      'that are here (-1 = the rest).'
    )
  return jax.make_mesh(
    tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
  )


def pure_data() -> Mesh:
  """Returns the mesh of all devices, each with all of the weights."""
  return create(ConfigDict({'data': -1, 'fsdp': 1, 'tensor': 1}))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of (B, ...) arrays: rows over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays of which every device holds all."""
  return NamedSharding(mesh, PartitionSpec())


def batch_parts(mesh: Mesh) -> int:
  """Returns how many parts a batch is split into."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
  """Raises a ValueError unless every device gets whole microbatches."""
  parts = batch_parts(mesh)
  if batch_size % (parts * accumulate):
    raise ValueError(
      f'config.train.batch_size is {batch_size}, must be divisible by '
      f'{parts * accumulate} = data {mesh.shape["data"]} x fsdp '
      f'{mesh.shape["fsdp"]} x accumulate {accumulate}.'
    )


def place(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Puts this process's rows of a batch, (B / processes, ...), on its devices.

  Returns (B, ...) arrays, split by `batch_sharding`; strings are dropped.
  """
  sharding = batch_sharding(mesh)
  arrays = numeric(batch)
  if processes.process_part() == (0, 1):
    return jax.device_put(arrays, sharding)
  return {
    k: jax.make_array_from_process_local_data(sharding, v)
    for k, v in arrays.items()
  }


def spread(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Puts a batch of any size, the same in every process, on the devices.

  Its (B, ...) arrays are split where B divides among the devices, else whole on
  each; strings are dropped.
  """
  arrays = numeric(batch)
  rows = next(iter(arrays.values())).shape[0] if arrays else 0
  parts = batch_parts(mesh)
  sharding = batch_sharding(mesh) if rows % parts == 0 else replicated(mesh)
  return jax.device_put(arrays, sharding)


def numeric(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the arrays that a device can hold."""
  return {k: v for k, v in batch.items() if v.dtype.kind in 'biuf'}


def needs_blocking(mesh: Mesh) -> bool:
  """Whether every step must be awaited.

  Several CPU devices share a thread pool: with many programs in flight their
  collectives wait for threads that wait for them.
  """
  return mesh.size > 1 and mesh.devices.flat[0].platform == 'cpu'


def describe(mesh: Mesh) -> str:
  """Returns 'data 2 x fsdp 4 x tensor 1 on 8 cpu devices'."""
  device: Any = mesh.devices.flat[0]
  sizes = ' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())
  return f'{sizes} on {mesh.size} {device.platform} devices'
