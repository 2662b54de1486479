"""Arrays of an .npz that are read row by row, however large they are.

Members that are stored as they are, NumPy's default, are read where they lie.
Compressed ones are unpacked into a temporary file first.
"""

import dataclasses
import functools
import math
import os
import pathlib
import shutil
import tempfile
from typing import IO
import weakref

import numpy as np

from pyramid_jax.files import arrays


_CHUNK = 1 << 20


class _File:
  """A descriptor that is closed with the last array that needs it."""

  def __init__(self, file: IO[bytes]):
    self.number = os.dup(file.fileno())
    weakref.finalize(self, os.close, self.number)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StoredArray:
  """An array on disk, (N, ...), of which rows are read."""

  file: _File
  offset: int  # bytes before the first row
  shape: tuple[int, ...]
  dtype: np.dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the rows (B, ...) at indices (B,); each in [0, N)."""
    indices = np.asarray(indices, np.int64)
    if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
      raise IndexError(f'rows {indices} of {len(self)}')
    rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
    size = self.dtype.itemsize * math.prod(self.shape[1:])
    if not size or not len(indices):
      return rows
    view = memoryview(rows.reshape(-1).view(np.uint8).data)
    # Rows that follow each other are read at once.
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    bounds = [0, *breaks.tolist(), len(indices)]
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
      place = self.offset + int(indices[start]) * size
      self._fill(view[start * size : stop * size], place)
    return rows

  def _fill(self, view: memoryview, place: int) -> None:
    done = 0
    while done < len(view):
      read = os.preadv(self.file.number, [view[done:]], place + done)
      if not read:
        raise OSError('a file became shorter while it was read')
      done += read


def read(path: pathlib.Path) -> dict[str, StoredArray]:
  """Opens the arrays of an .npz by name; those without rows are left out.

  All of it is read once, so that damage is found here.

  Raises:
    ValueError: one line with the path: no .npz, damage, or an array of objects.
    OSError: the file cannot be opened.
  """
  try:
    with arrays.opened(path) as archive:
      found = {name: _opened(archive, name) for name in archive}
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  return {name: x for name, x in found.items() if x.shape}


def _opened(archive: arrays.Archive, name: str) -> StoredArray:
  with archive.member(name) as (header, stream):
    opened = functools.partial(
      StoredArray, shape=header.shape, dtype=header.dtype
    )
    if header.place is not None and not header.is_fortran:
      while stream.read(_CHUNK):  # its end has the checksum
        pass
      return opened(file=_File(archive.file), offset=header.place)
    with tempfile.TemporaryFile() as own:
      if header.is_fortran:  # whose rows do not lie together
        own.write(np.ascontiguousarray(archive[name]).data)
      else:
        shutil.copyfileobj(stream, own, _CHUNK)
      own.flush()
      return opened(file=_File(own), offset=0)
