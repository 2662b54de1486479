"""How caches are written: their shards, each by one of the processes."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data.caches import fixed_records
from pyramid_jax.data.caches import manifests
from pyramid_jax.distributed import processes
from pyramid_jax.files import stores
from pyramid_jax.runs import progress
from pyramid_jax.runs import stopping


Arrays = dict[str, np.ndarray]
# What is read on the host, and what becomes of it on the devices.
Read = Callable[[np.ndarray], Mapping[str, Any]]
Compute = Callable[[Mapping[str, Any]], Mapping[str, jax.Array]]


def begin(folder: stores.Path, manifest: Mapping[str, Any]) -> None:
  """Makes the folder with its manifest; all processes call it, one writes.

  Raises:
    UserError: the folder holds another cache, or cannot be written.
  """
  processes.decided(lambda: manifests.write(folder, manifest))


def write(
  shards: fixed_records.Shards,
  make: Callable[[range], Arrays],
  versions: int = 1,
) -> None:
  """Writes the shards that are not there, or not whole.

  Process p of P writes those whose index is p modulo P.

  Args:
    shards: of the cache.
    make: numbers of the records of a shard -> their arrays.
    versions: records of an item, for the items per second that are shown.

  Raises:
    UserError: there is no room, or a shard cannot be made or written.
  """
  process, number = processes.process_part()
  mine = range(process, len(shards.names), number)
  left = [index for index in mine if not shards.is_there(index)]
  count = sum(len(shards.numbers(index)) for index in left)
  folder = shards.path(0).parent
  need = count * shards.layout.size
  errors.check_room(f'{count} records in {folder}', need, folder)
  items = shards.size // versions
  with progress.Progress(range(len(mine)), items, 'shard') as numbers:
    for done in numbers:
      stopping.check()
      if not shards.is_whole(mine[done]):
        shards.write(mine[done], make(shards.numbers(mine[done])))
  processes.barrier()


def computed(
  items: range, batch_size: int, read: Read, compute: Compute
) -> Arrays:
  """Returns the arrays of some items, which are computed in batches.

  Args:
    items: the numbers of the items.
    batch_size: items at a time.
    read: numbers (B,) of items -> host arrays (B, ...).
    compute: those -> arrays (B, ...), and perhaps more rows behind them.
  """
  parts = []
  for start in range(0, len(items), batch_size):
    stopping.check()
    numbers = np.array(items[start : start + batch_size], np.int64)
    with errors.user_errors(value=errors.DATA):
      batch = read(numbers)
    found = compute(batch)
    parts.append({k: np.asarray(v)[: len(numbers)] for k, v in found.items()})
  return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
