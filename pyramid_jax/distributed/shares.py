"""How several processes share the rows of a batch, and what they make of them.

Each process reads the rows that its devices hold, and counts those that no
process before it has: each row is counted once. With one process every function
gives back what it is given.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import operator

import jax
from jax.sharding import Mesh
import numpy as np

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes


Rows = dict[str, np.ndarray]
_TOPIC = 'shares'  # of what processes tell each other
# Bytes that a device holds at a time of what a process sends.
_AT_A_TIME = 2**26


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
  """The rows of a batch that a process reads and counts.

  On the devices the batch is filled up, by its own rows in turn, until it
  divides among them.
  """

  size: int  # the number of rows of the batch
  rows: np.ndarray  # (R,) int64, those that the devices of the process hold
  is_own: np.ndarray  # (R,) bool, which of them it counts
  is_alone: bool  # whether the mesh has no devices of other processes

  @property
  def own(self) -> np.ndarray:
    """(O,) int64, rising: the rows that the process counts."""
    return self.rows[self.is_own]

  def place(
    self, mesh: Mesh, columns: Mapping[str, np.ndarray]
  ) -> dict[str, jax.Array]:
    """Puts the `rows` of a batch, (R, ...) arrays, on the devices of a mesh.

    Returns arrays of at least `size` rows, those of the batch first; strings
    are dropped.
    """
    put = mesh_lib.spread if self.is_alone else mesh_lib.place
    return put(mesh, columns)


def of_batch(
  mesh: Mesh,
  size: int,
  index: int | None = None,
  process_of: Callable[[jax.Device], int] = operator.attrgetter(
    'process_index'
  ),
) -> Share:
  """Returns the share of a process in a batch of `size` rows.

  Args:
    mesh: the devices, of all processes.
    size: the number of rows.
    index: the number of the process, None for this one.
    process_of: which process has a device.
  """
  own_index = processes.process_part()[0] if index is None else index
  devices = [d for d in mesh.devices.flat if process_of(d) == own_index]
  if len(devices) == mesh.size:
    rows = np.arange(size)
    return Share(size=size, rows=rows, is_own=rows >= 0, is_alone=True)
  parts = mesh_lib.batch_parts(mesh)
  filled = -(-size // parts) * parts
  sharding = mesh_lib.batch_sharding(mesh)
  first = np.full(filled, np.iinfo(np.int64).max)  # process of each row
  for device, part in sharding.devices_indices_map((filled,)).items():
    first[part] = np.minimum(first[part], process_of(device))
  rows = mesh_lib.local_rows(sharding, filled, devices)
  is_own = (first[rows] == own_index) & (rows < size)
  return Share(size=size, rows=rows % size, is_own=is_own, is_alone=False)


def read(
  mesh: Mesh, numbers: np.ndarray, source: Callable[[np.ndarray], Rows]
) -> Rows:
  """Returns the rows (B, ...) with some numbers, to all processes of a mesh.

  Each process reads its share. All of them call it.

  Args:
    mesh: the devices of all processes.
    numbers: (B,) of the rows.
    source: returns the rows with some numbers.
  """
  share = of_batch(mesh, len(numbers))
  if share.is_alone:
    return source(numbers)
  return gathered(mesh, share, source(numbers[share.rows]))


def gathered(
  mesh: Mesh, share: Share, columns: Mapping[str, np.ndarray]
) -> Rows:
  """Returns all rows of a batch to all processes, which all call it.

  Args:
    mesh: the devices of all processes.
    share: that of this process.
    columns: (R, ...) arrays of numbers or texts, the `rows` of the share; texts
      become as wide as the widest one.

  Returns:
    (B, ...) arrays of the same bytes.
  """
  if share.is_alone or not columns:
    return dict(columns)
  names = list(columns)
  types = processes.collected(
    {name: columns[name].dtype.str for name in names}, _TOPIC
  )
  found = {
    name: np.result_type(*(np.dtype(t[name]) for t in types)) for name in names
  }
  flat = {n: _bytes(columns[n].astype(found[n], copy=False)) for n in names}
  widths = [flat[name].shape[1] for name in names]
  placed = mesh_lib.place(
    mesh, {'bytes': np.concatenate([flat[name] for name in names], axis=1)}
  )
  whole = processes.to_host(placed['bytes'])[: share.size]
  parts = np.split(whole, np.cumsum(widths)[:-1], axis=1)
  return {
    name: np.ndarray(
      (share.size, *columns[name].shape[1:]),
      found[name],
      bytearray(part.tobytes()),
    )
    for name, part in zip(names, parts, strict=True)
  }


def _bytes(rows: np.ndarray) -> np.ndarray:
  """(R, ...) -> (R, N) uint8."""
  width = rows.dtype.itemsize * int(np.prod(rows.shape[1:]))
  return np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), width)


def to_main(data: bytes) -> Iterator[bytes]:
  """Yields the bytes of all other processes, in order, in process 0.

  They go over the devices, one process after the other. All processes iterate
  to the end, the others over nothing.
  """
  sizes = processes.collected(len(data), _TOPIC)
  for source, size in enumerate(sizes[1:], 1):
    found = _broadcast(data, source, size)
    if processes.is_main_process():
      yield found


def to_all(data: bytes) -> bytes:
  """Returns the bytes of process 0 to all processes, which all call it."""
  size = processes.decided(lambda: len(data), _TOPIC)
  return _broadcast(data, 0, size) if processes.is_one_of_many() else data


def _broadcast(data: bytes, source: int, size: int) -> bytes:
  """Returns the bytes of one process to all, which tell their number."""
  from jax.experimental import multihost_utils

  is_source = processes.process_part()[0] == source
  # Of few sizes, so that few programs are compiled.
  chunk = min(1 << max(size - 1, 0).bit_length(), _AT_A_TIME)
  found = bytearray()
  for start in range(0, size, chunk):
    own = data[start : start + chunk] if is_source else b''
    piece = np.frombuffer(own.ljust(chunk, b'\0'), np.uint8)
    found += np.asarray(
      multihost_utils.broadcast_one_to_all(piece, is_source)
    ).tobytes()
  return bytes(found[:size])
