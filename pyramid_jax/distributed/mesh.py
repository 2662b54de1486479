"""The devices of a run as a mesh, and batches on it."""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from jax.sharding import Sharding
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import placement


def create(
  config: ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns the mesh of `config.mesh`: a size for every axis, -1 = the rest.

  Its devices are those of all processes by default; sizes that do not multiply
  to their number are a ValueError.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [config[axis] for axis in placement.AXES]
  known = math.prod(size for size in sizes if size != -1)
  wish = ', '.join(
    f'{a}={s}' for a, s in zip(placement.AXES, sizes, strict=True)
  )
  if sizes.count(-1) > 1:
    raise ValueError(f'config.mesh has {wish}, at most one size may be -1.')
  if -1 in sizes and len(devices) % known == 0:
    sizes[sizes.index(-1)] = len(devices) // known
  if math.prod(sizes) != len(devices):
    raise ValueError(
      f'config.mesh has {wish}, must multiply to the {len(devices)} devices '
      'that are here (-1 = the rest).'
    )
  types = (AxisType.Auto,) * len(placement.AXES)
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if slices == 1 or devices[0].platform != 'tpu':
    return jax.make_mesh(
      tuple(sizes), placement.AXES, axis_types=types, devices=devices
    )
  there = _of_slices(sizes, slices, devices)
  return Mesh(there, placement.AXES, axis_types=types)


def _of_slices(
  sizes: Sequence[int], slices: int, devices: Sequence[jax.Device]
) -> np.ndarray:
  """Returns the devices of several TPU slices, which split `data` alone.

  The network between slices is slow: only gradients of whole slices cross it.
  """
  data, *inner = sizes
  if data % slices:
    raise ValueError(
      f'config.mesh.data is {data}, must be divisible by the {slices} slices.'
    )
  return mesh_utils.create_hybrid_device_mesh(
    (data // slices, *inner), (slices, 1, 1), devices
  )


def pure_data(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Returns the mesh of devices that have all of the weights each.

  They are the devices of all processes by default.
  """
  return create(ConfigDict({'data': -1, 'fsdp': 1, 'tensor': 1}), devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of (B, ...) arrays: rows over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(placement.BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays of which every device holds all."""
  return NamedSharding(mesh, PartitionSpec())


def batch_parts(mesh: Mesh) -> int:
  """Returns how many parts a batch is split into."""
  return math.prod(mesh.shape[axis] for axis in placement.BATCH_AXES)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
  """Raises a ValueError unless every device gets whole microbatches."""
  whole = batch_parts(mesh) * accumulate
  if batch_size % whole:
    raise ValueError(
      f'config.train.batch_size is {batch_size}, must be divisible by {whole} ='
      f' {_axes(mesh)} x accumulate {accumulate}: {nearest(batch_size, whole)}.'
    )


def check_stages(
  mesh: Mesh, stage_batch: Sequence[int], accumulate: int = 1
) -> None:
  """Raises a ValueError unless every device gets as many rows of each stage."""
  parts = batch_parts(mesh)
  if any(size % parts for size in stage_batch):
    larger = tuple(-(-size // parts) * parts for size in stage_batch)
    raise ValueError(
      f'config.laplacian.stage_batch is {tuple(stage_batch)}, each must be'
      f' divisible by {parts} = {_axes(mesh)}: {larger} is, with'
      f' config.train.batch_size={sum(larger) * accumulate}.'
    )


def nearest(size: int, divisor: int) -> str:
  """Returns '8 or 16', the multiples of 8 that are next to 13."""
  lower = size // divisor * divisor
  sizes = [lower, lower + divisor] if lower else [divisor]
  return ' or '.join(map(str, sizes))


def _axes(mesh: Mesh) -> str:
  return f'data {mesh.shape["data"]} x fsdp {mesh.shape["fsdp"]}'


def local_rows(
  sharding: Sharding, size: int, devices: Collection[jax.Device] | None = None
) -> np.ndarray:
  """Returns which rows of (B, ...) arrays the devices of a process hold.

  Two processes hold the same rows where an axis of the mesh over which rows are
  not split goes from one to the other.

  Args:
    sharding: of the arrays; it divides their rows.
    size: B.
    devices: those of the process, all that it can address if None.

  Returns:
    (R,) int64, rising.
  """
  parts = sharding.devices_indices_map((size,))
  if devices is None:
    devices = sharding.addressable_devices
  rows = [np.arange(size)[parts[device]] for device in devices]
  return np.unique(np.concatenate(rows))


def place(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Puts the rows of a batch that this process holds on its devices.

  Args:
    mesh: of all processes.
    batch: (R, ...) arrays, the `local_rows` of a batch of B; strings are
      dropped.

  Returns:
    (B, ...) arrays, split by `batch_sharding`.
  """
  sharding = batch_sharding(mesh)
  arrays = numeric(batch)
  if sharding.is_fully_addressable:
    return jax.device_put(arrays, sharding)
  parts = batch_parts(mesh)
  share = len(local_rows(sharding, parts))  # of the parts
  return {k: _of_local(sharding, x, parts, share) for k, x in arrays.items()}


def _of_local(
  sharding: NamedSharding, local: np.ndarray, parts: int, share: int
) -> jax.Array:
  """Returns the whole array, given its rows in `share` of its `parts`."""
  if len(local) % share:
    raise ValueError(
      f'{len(local)} rows do not divide among {share} parts of a batch.'
    )
  size = len(local) // share * parts
  rows = local_rows(sharding, size)

  def part(index: Any) -> np.ndarray:
    first, last, _ = index[0].indices(size)
    return local[slice(*np.searchsorted(rows, (first, last)))]

  shape = (size, *local.shape[1:])
  return jax.make_array_from_callback(shape, sharding, part)


def spread(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Puts a batch of any size, the same in every process, on the devices.

  Its (B, ...) arrays are filled up, by their own rows in turn, until they
  divide among the devices; strings are dropped.
  """
  sharding = batch_sharding(mesh)
  arrays = {k: _repeated(mesh, x) for k, x in numeric(batch).items()}
  if sharding.is_fully_addressable:
    return jax.device_put(arrays, sharding)
  return {k: _of_same(sharding, x) for k, x in arrays.items()}


def filled(mesh: Mesh, size: int) -> int:
  """Returns the number of rows that `spread` makes of `size`."""
  return size + -size % batch_parts(mesh)


def _repeated(mesh: Mesh, x: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
  """Repeats rows in turn until they divide among the devices."""
  rows, size = x.shape[0], filled(mesh, x.shape[0])
  return x if size == rows else x[np.arange(size) % rows]


def _of_same(sharding: NamedSharding, x: np.ndarray | jax.Array) -> jax.Array:
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return jax.device_put(x, sharding)
  # `device_put` would compare the arrays of all processes.
  x = np.asarray(x)
  return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def numeric(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the arrays that a device can hold."""
  return {
    k: v
    for k, v in batch.items()
    if v.dtype.kind in 'biuf' or v.dtype == jnp.bfloat16
  }


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
