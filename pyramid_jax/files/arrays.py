"""The arrays of an .npz that somebody else may have made.

What the directory of the archive says, what the header of an array says and how
large the file is have to agree before memory is taken. `numpy.load` believes
the header, and raises errors of ten kinds.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import io
import math
import os
import struct
from typing import IO
from typing import BinaryIO
import zipfile

import numpy as np

from pyramid_jax import limits
from pyramid_jax.files import bounded
from pyramid_jax.files import copies
from pyramid_jax.files import zips


_SUFFIX = '.npy'
_CHUNK = 1 << 20
# How an array begins, by version -> how the length of its header is written.
_LENGTHS = {
  b'\x93NUMPY\x01\x00': struct.Struct('<H'),
  b'\x93NUMPY\x02\x00': struct.Struct('<I'),
}
_KINDS = 'biufcSU'  # of types: numbers and text

Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
  """What an array is, and where its numbers are."""

  shape: tuple[int, ...]
  dtype: np.dtype
  is_fortran: bool  # whether the first axis is that of neighbours
  place: int | None  # in the file; None where they are compressed

  @property
  def size(self) -> int:
    """Bytes of the numbers."""
    return self.dtype.itemsize * math.prod(self.shape)


class Archive(Mapping[str, np.ndarray]):
  """The arrays by name, each read and compared with its checksum on access.

  Access raises ValueError for an array that is damaged or not one.

  Attributes:
    file: the open file.
  """

  def __init__(self, file: BinaryIO):
    """Reads the directory; see `opened`."""
    self.file = file
    self._zip = zips.opened(
      file, limits.ARRAYS, limits.INFLATED_BYTES, limits.INFLATED_RATIO
    )
    self._members = {_name(member): member for member in self._zip.infolist()}
    self._left = limits.ARRAYS_BYTES

  def __iter__(self) -> Iterator[str]:
    return iter(self._members)

  def __len__(self) -> int:
    return len(self._members)

  def __contains__(self, name: object) -> bool:
    return name in self._members

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._members:
      raise KeyError(name)
    with self.member(name) as (header, stream):
      self._left -= header.size
      if self._left < 0:
        raise ValueError(
          f'{name!r} makes it more than {limits.ARRAYS_BYTES} bytes in memory'
        )
      order = header.shape[::-1] if header.is_fortran else header.shape
      array = np.empty(order, header.dtype)
      _fill(stream, array)
    return array.T if header.is_fortran else array

  @contextlib.contextmanager
  def member(self, name: str) -> Iterator[tuple[Header, IO[bytes]]]:
    """Opens an array: what it is, and its numbers' bytes, a stream.

    The end of the stream compares the checksum. Damage, also what the reading
    of the stream in the context raises, is a ValueError.
    """
    member = self._members[name]
    with zips.damage():
      stream = self._zip.open(member)
    with stream:
      with zips.damage():
        header = self._header(stream, name)
      with zips.damage(zips.CUT):
        yield header, stream

  def _header(self, stream: IO[bytes], name: str) -> Header:
    member = self._members[name]
    shape, is_fortran, dtype = header(stream, name)
    place = zips.place(self.file, member)
    if place is not None:
      place += stream.tell()
    found = Header(shape=shape, dtype=dtype, is_fortran=is_fortran, place=place)
    there = member.file_size - stream.tell()
    if found.size != there:
      raise ValueError(
        f'{name!r}: {shape} of {dtype} needs {found.size} bytes, the archive'
        f' has {there}'
      )
    return found


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Archive]:
  """Opens an .npz; its arrays are read on access.

  Raises:
    ValueError: one line without the path: no .npz, damage, a limit of `limits`,
      or what only code could read.
    OSError: the file cannot be opened or read.
  """
  bounded.check(path, limits.FILE_BYTES)
  with copies.opened(path) as file:
    start = file.read(6)
    if start == b'\x93NUMPY':
      raise ValueError('a single array (.npy); needed is an .npz')
    if not start.startswith((zips.START, zips.EMPTY)):
      raise ValueError('not an .npz')
    yield Archive(file)


def load(path: Path) -> dict[str, np.ndarray]:
  """Returns the arrays of an .npz by name; see `opened`."""
  with opened(path) as archive:
    return dict(archive)


def contents(path: Path) -> dict[str, tuple[int, int]]:
  """Returns the size and the checksum of every array; see `opened`."""
  with opened(path) as archive:
    members = archive._members.items()
    return {name: (m.file_size, m.CRC) for name, m in members}


def _name(member: zipfile.ZipInfo) -> str:
  name = member.filename
  if not name.endswith(_SUFFIX) or len(name) > limits.ARRAY_NAME:
    raise ValueError(f'{name[:200]!r} is no array')
  return name.removesuffix(_SUFFIX)


@zips.damage()
def header(
  stream: IO[bytes], name: str
) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Reads shape, order and type of an array; the stream is then behind them.

  Raises:
    ValueError: damage, an array of other things than numbers or text, or one
      beyond a limit of `limits`.
  """
  length = _LENGTHS.get(stream.read(8))
  if length is None:
    raise ValueError(f'{name!r} is no array (of .npy version 1 or 2)')
  (size,) = length.unpack(stream.read(length.size))
  if size > limits.ARRAY_HEADER_BYTES:
    raise ValueError(
      f'{name!r} has a header of {size} bytes; limit:'
      f' {limits.ARRAY_HEADER_BYTES}'
    )
  text = io.BytesIO(struct.pack('<H', size) + stream.read(size))
  # the two versions differ in the length alone
  shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(text)
  if dtype.hasobject:
    raise ValueError(f'{name!r} holds Python objects')
  if dtype.kind not in _KINDS or not dtype.itemsize:
    raise ValueError(f'{name!r} is of type {str(dtype)[:100]}')
  if len(shape) > limits.ARRAY_DIMENSIONS or min(shape, default=0) < 0:
    raise ValueError(f'{name!r} has the shape {str(shape)[:100]}')
  return shape, is_fortran, dtype


def _fill(stream: IO[bytes], array: np.ndarray) -> None:
  """Reads an array to the end of its stream, where the checksum is."""
  view = array.reshape(-1).view(np.uint8).data
  done = 0
  while chunk := stream.read(_CHUNK):
    view[done : done + len(chunk)] = chunk
    done += len(chunk)
  if done < len(view):
    raise ValueError('cut short')
