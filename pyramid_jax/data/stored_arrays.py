"""Arrays of an .npz that are read row by row, however large they are.

Members that are stored as they are, NumPy's default, are read where they lie.
Compressed ones are unpacked into a temporary file first.
"""

from collections.abc import Mapping
import dataclasses
import functools
import math
import os
import pathlib
import shutil
import struct
import tempfile
import tokenize
from typing import IO
import weakref
import zipfile
import zlib

import numpy as np


_SUFFIX = '.npy'
_LOCAL_HEADER = 30  # bytes of a member's header, before its name
_CHUNK = 1 << 20
# What readers of damaged files raise.
DAMAGE = (
  *(ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError),
  *(OverflowError, MemoryError, NotImplementedError, SyntaxError),
  *(struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile),
)


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
  with path.open('rb') as file:
    try:
      with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        found = {
          member.filename.removesuffix(_SUFFIX): _opened(file, archive, member)
          for member in members
          if member.filename.endswith(_SUFFIX)
        }
    except DAMAGE as error:
      raise ValueError(f'{path}: {error or type(error).__name__}') from error
  return {name: x for name, x in found.items() if x.shape}


def contents(path: pathlib.Path) -> Mapping[str, tuple[int, int]]:
  """Returns the size and the checksum of every member of an .npz."""
  with zipfile.ZipFile(path) as archive:
    return {x.filename: (x.file_size, x.CRC) for x in archive.infolist()}


def _opened(
  file: IO[bytes], archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> StoredArray:
  with archive.open(member) as stream:
    shape, is_fortran, dtype = _header(stream)
    start = stream.tell()
    size = dtype.itemsize * math.prod(shape)
    if (
      size != member.file_size - start
      or dtype.hasobject
      or min(shape, default=0) < 0
    ):
      raise ValueError(
        f'{member.filename} is said to be of {shape} {dtype}, which it does'
        ' not hold'
      )
    opened = functools.partial(StoredArray, shape=shape, dtype=dtype)
    if member.compress_type == zipfile.ZIP_STORED and not is_fortran:
      while stream.read(_CHUNK):  # its end has the checksum
        pass
      place = start + _data_start(file, member)
      return opened(file=_File(file), offset=place)
    with tempfile.TemporaryFile() as own:
      if is_fortran:  # whose rows do not lie together
        values = np.frombuffer(stream.read(), dtype).reshape(shape, order='F')
        own.write(np.ascontiguousarray(values).tobytes())
      else:
        shutil.copyfileobj(stream, own, _CHUNK)
      own.flush()
      return opened(file=_File(own), offset=0)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
  version = np.lib.format.read_magic(stream)
  if version == (1, 0):
    return np.lib.format.read_array_header_1_0(stream)
  return np.lib.format.read_array_header_2_0(stream)


def _data_start(file: IO[bytes], member: zipfile.ZipInfo) -> int:
  """Returns where the bytes of a member begin."""
  header = os.pread(file.fileno(), _LOCAL_HEADER, member.header_offset)
  name, extra = struct.unpack('<HH', header[26:30])
  return member.header_offset + _LOCAL_HEADER + name + extra
