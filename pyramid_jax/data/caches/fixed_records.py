"""Records of one size in shards, each of which is read at any place.

A record has the arrays of an example one after another, at places that are the
same in all records, and 4 bytes behind them: the CRC-32 of the rest, begun with
the number of the record, so that a record in the place of another is damage,
too. A shard is records and nothing else. Reading one is one request of the
system and one checksum; a file is open only while it is among the last that
were used, and nothing of a shard is read before its first record.

Not as array_record: opening one of its files takes 1 to 3 ms and threads of
its own, so a random batch out of ten thousand shards would take seconds.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math
import os
import pathlib
from typing import Any
import zlib

import jax.numpy as jnp
import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data import identity
from pyramid_jax.files import copies
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files


SUFFIX = '.records'
_OPEN = 48  # shards that stay open
_SUM = 4  # bytes of a checksum
_CHUNK = 64 << 20  # bytes that are checked at a time
_TYPES = (
  *('bool', 'uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32'),
  *('uint64', 'int64', 'bfloat16', 'float16', 'float32', 'float64'),
)


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a record has: (name, element type, shape) of its arrays, in order."""

  arrays: tuple[tuple[str, str, tuple[int, ...]], ...]

  @classmethod
  def of(cls, rows: Mapping[str, Any]) -> 'Layout':
    """Returns the layout of arrays (N, ...), or of their shapes."""
    named = sorted(rows.items())
    return cls(tuple((k, str(x.dtype), tuple(x.shape[1:])) for k, x in named))

  @classmethod
  def of_json(cls, value: Any) -> 'Layout':
    """Reads what `json` gives; anything else is a ValueError."""
    found = []
    if not isinstance(value, dict) or len(value) > limits.ARRAYS:
      raise ValueError('no object of arrays')
    for name, entry in value.items():
      if not isinstance(entry, list) or len(entry) != 2:
        raise ValueError(f'{name!r:.60} is not [type, shape]')
      kind, shape = entry
      if kind not in _TYPES:
        raise ValueError(f'{name!r:.60} has the type {kind!r:.60}')
      if not isinstance(shape, list) or len(shape) > limits.ARRAY_DIMENSIONS:
        raise ValueError(f'{name!r:.60} has the shape {shape!r:.60}')
      if not all(type(n) is int and 0 < n < 2**31 for n in shape):
        raise ValueError(f'{name!r:.60} has the shape {shape!r:.60}')
      found.append((name, kind, tuple(shape)))
    layout = cls(tuple(found))
    if layout.size > limits.ARRAYS_BYTES:
      raise ValueError(f'a record of {layout.size} bytes')
    return layout

  def json(self) -> dict[str, list[Any]]:
    """Returns the layout as a manifest has it."""
    return {name: [kind, list(shape)] for name, kind, shape in self.arrays}

  @functools.cached_property
  def size(self) -> int:
    """The number of bytes of a record."""
    return sum(map(_bytes, self.arrays)) + _SUM

  def pack(self, rows: Mapping[str, np.ndarray], first: int) -> np.ndarray:
    """Returns records (N, size) uint8 of arrays (N, ...).

    Args:
      rows: the arrays of the layout.
      first: the number of the first record.

    Raises:
      ValueError: arrays of another layout.
    """
    if Layout.of(rows) != self:
      raise ValueError(f'arrays of {Layout.of(rows)}, must be of {self}.')
    parts = []
    for entry in self.arrays:
      array = np.ascontiguousarray(rows[entry[0]])
      flat = array.reshape(len(array), math.prod(entry[2]))
      parts.append(flat.view(np.uint8))
    body = np.concatenate(parts, axis=1)
    sums = _sums(body, np.arange(first, first + len(body)))
    return np.concatenate([body, sums[:, None].view(np.uint8)], axis=1)

  def unpack(self, records: np.ndarray) -> dict[str, np.ndarray]:
    """Returns arrays (N, ...) of records (N, size) uint8."""
    found, start = {}, 0
    for entry in self.arrays:
      name, kind, shape = entry
      stop = start + _bytes(entry)
      part = np.ascontiguousarray(records[:, start:stop])
      found[name] = part.view(jnp.dtype(kind)).reshape(-1, *shape)
      start = stop
    return found


def _bytes(entry: tuple[str, str, tuple[int, ...]]) -> int:
  return jnp.dtype(entry[1]).itemsize * math.prod(entry[2])


def _sums(bodies: np.ndarray, numbers: np.ndarray) -> np.ndarray:
  """Returns the checksums (N,) uint32 of records without theirs."""
  starts = (numbers & 0xFFFFFFFF).tolist()
  found = (zlib.crc32(x, n) for x, n in zip(bodies, starts, strict=True))
  return np.fromiter(found, np.uint32, len(bodies))


class _Handle:
  """An open file, closed when nobody has it any more."""

  def __init__(self, path: str | pathlib.Path):
    self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

  def __del__(self) -> None:
    if hasattr(self, 'number'):
      os.close(self.number)


def _open(folder: stores.Path, names: Sequence[str], index: int) -> _Handle:
  """Opens a shard, or its copy; what is not there is a UserError."""
  path = os.path.join(folder, names[index])
  try:
    return _Handle(copies.local(path) if stores.is_remote(folder) else path)
  except ValueError as error:
    raise errors.UserError(f'{path}: {error}', errors.DATA) from error
  except OSError as error:
    if errors.is_transient(error):
      raise
    raise errors.UserError(errors.reason(error), errors.MISSING) from error


class Shards:
  """The shards `NAME-00000.records`, ... of a folder.

  Threads may read at the same time.
  """

  def __init__(
    self, folder: stores.Path, name: str, layout: Layout, size: int, count: int
  ):
    """Names the files; none is opened.

    Args:
      folder: of the shards.
      name: with which their names begin.
      layout: of a record.
      size: records of a shard; the last one may have fewer.
      count: records of all.
    """
    self.layout = layout
    self.count = count
    self.size = size
    self.names = [f'{name}-{i:05d}{SUFFIX}' for i in range(-(-count // size))]
    self._folder = folder
    # Without `self`, so that files are closed when nobody has the shards.
    function = functools.partial(_open, folder, self.names)
    self._opened = functools.lru_cache(_OPEN)(function)

  def numbers(self, index: int) -> range:
    """Returns the records of a shard."""
    return range(self.count)[index * self.size :][: self.size]

  def path(self, index: int) -> stores.Path:
    """Returns the file of a shard."""
    return self._folder / self.names[index]

  def check(self) -> dict[str, int]:
    """Returns the bytes of each shard; the folder is listed, nothing is read.

    Raises:
      UserError: shards that are not there or have another size.
    """
    found = identity.sizes(self._folder, self.names)
    sizes = {name: size for name, size in found.items() if size is not None}
    absent = [name for name in self.names if name not in sizes]
    if absent:
      raise errors.UserError(
        f'{self._folder} lacks {len(absent)} of its {len(self.names)} shards,'
        f' the first is {absent[0]}; run the command that writes it again.',
        errors.MISSING,
      )
    for index, name in enumerate(self.names):
      want = len(self.numbers(index)) * self.layout.size
      if sizes[name] != want:
        raise self._damaged(index, f'has {sizes[name]} bytes, must have {want}')
    return sizes

  def is_there(self, index: int) -> bool:
    """Whether there is the file of a shard."""
    return self.path(index).is_file()

  def is_whole(self, index: int) -> bool:
    """Whether all records of a shard are what was written; they are read."""
    if not self.is_there(index):
      return False
    step = max(1, _CHUNK // self.layout.size)
    numbers = self.numbers(index)
    try:
      for start in range(0, len(numbers), step):
        self.read(np.array(numbers[start : start + step], np.int64))
    except errors.UserError as error:
      if error.code != errors.DATA:
        raise
      self._opened.cache_clear()
      return False
    return True

  def write(self, index: int, rows: Mapping[str, np.ndarray]) -> None:
    """Writes a shard of arrays (N, ...); it appears when it is whole."""
    path, numbers = self.path(index), self.numbers(index)
    records = self.layout.pack(rows, numbers.start)
    if len(records) != len(numbers):
      raise ValueError(f'{len(records)} records, must be {len(numbers)}.')
    whole_files.remove_left(path)
    whole_files.save(path, lambda file: file.write(records.data))

  def read(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays (B, ...) of records (B,) in any order.

    Raises:
      UserError: a record that is damaged or not there.
    """
    numbers = np.asarray(numbers, np.int64)
    records = np.empty((len(numbers), self.layout.size), np.uint8)
    retries.repeat(lambda: self._fill(records, numbers), self._folder)
    sums = np.ascontiguousarray(records[:, -_SUM:]).view(np.uint32)[:, 0]
    wrong = np.flatnonzero(sums != _sums(records[:, :-_SUM], numbers))
    if wrong.size:
      index, place = divmod(int(numbers[wrong[0]]), self.size)
      raise self._damaged(index, f'has a wrong CRC-32 in its record {place}')
    return self.layout.unpack(records)

  def _fill(self, records: np.ndarray, numbers: np.ndarray) -> None:
    """Reads records, those of a shard one after another."""
    size, last = self.layout.size, -1
    for row in np.argsort(numbers, kind='stable').tolist():
      index, place = divmod(int(numbers[row]), self.size)
      if index != last:
        handle, last = self._opened(index), index
      got = os.preadv(handle.number, [records[row].data], place * size)
      if got != size:
        self._rest(index, handle, records[row], place * size, got)

  def _rest(
    self, index: int, handle: _Handle, row: np.ndarray, at: int, got: int
  ) -> None:
    """Reads what a request left."""
    while got < len(row):
      more = os.preadv(handle.number, [row[got:].data], at + got)
      if not more:
        raise self._damaged(index, f'ends at byte {at + got}')
      got += more

  def _damaged(self, index: int, what: str) -> errors.UserError:
    return errors.UserError(
      f'{self.path(index)} {what}: damaged; run the command that writes it'
      ' again.',
      errors.DATA,
    )
