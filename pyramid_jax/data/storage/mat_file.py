"""Tables of MATLAB files, whose parser in SciPy ends the process on damage.

What is read is an array of structures of level 5 of the format, compressed or
not, with numbers and texts (MATLAB: MAT-File Format, Level 5).
"""

import math
import struct
from typing import Any
import zlib

import numpy as np


_HEADER = 128  # bytes
_VERSION = struct.pack('<H', 0x0100) + b'IM'  # of little-endian numbers
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {  # by the kind of an element
  **{1: 'i1', 2: 'u1', 3: '<i2', 4: '<u2', 5: '<i4', 6: '<u4'},
  **{7: '<f4', 9: '<f8', 12: '<i8', 13: '<u8'},
}
_TEXTS = {
  1: 'latin1',
  2: 'latin1',
  4: 'utf-16-le',
  16: 'utf-8',
  17: 'utf-16-le',
}
_STRUCTURE, _TEXT = 2, 4  # classes of arrays
_NUMERIC = range(6, 16)
_MOST = 64 << 20  # bytes to which a compressed array may unpack

Row = dict[str, Any]


def table(data: bytes, name: str) -> list[Row]:
  """Returns the rows of an array of structures, values by field.

  A value is the first number of an array, or a text; None for anything else.

  Args:
    data: the content of a file.
    name: of the array.

  Raises:
    ValueError: damage, a file of another kind, or no such array.
  """
  if data[_HEADER - 4 : _HEADER] != _VERSION:
    raise ValueError('no MATLAB file of level 5')
  parts = _Parts(data[_HEADER:])
  while parts.left:
    kind, content = parts.next()
    if kind == _COMPRESSED:
      kind, content = _Parts(_unpacked(content)).next()
    if kind == _MATRIX:
      array = _Parts(content)
      of, shape, called = _head(array)
      if called == name and of == _STRUCTURE:
        return _rows(array, math.prod(shape))
  raise ValueError(f'it has no structures {name!r}')


class _Parts:
  """The elements of a file or of an array, one after the other."""

  def __init__(self, data: bytes):
    self._data, self._at = memoryview(data), 0

  @property
  def left(self) -> int:
    """Bytes that are not read."""
    return len(self._data) - self._at

  def next(self) -> tuple[int, bytes]:
    """Returns the kind and the bytes of the next element."""
    if self.left < 8:
      raise ValueError('cut off')
    kind, size = struct.unpack_from('<II', self._data, self._at)
    start, step = self._at + 8, size
    if kind >> 16:  # a small one, with its bytes in the second half
      kind, size = kind & 0xFFFF, kind >> 16
      start, step = self._at + 4, 0
      if size > 4:
        raise ValueError(f'damaged: a small element of {size} bytes')
    if size > len(self._data) - start:
      raise ValueError(f'cut off: an element of {size} bytes')
    whole = step if kind == _COMPRESSED else -(-step // 8) * 8
    self._at = min(self._at + 8 + whole, len(self._data))
    return kind, bytes(self._data[start : start + size])


def _unpacked(data: bytes) -> bytes:
  unpacker = zlib.decompressobj()
  try:
    found = unpacker.decompress(data, _MOST)
  except zlib.error as error:
    raise ValueError(f'damaged: {error}') from None
  if not unpacker.eof:
    raise ValueError(f'cut off, or more than {_MOST} bytes')
  return found


def _head(array: _Parts) -> tuple[int, tuple[int, ...], str]:
  """Returns the class of an array, its shape and its name."""
  _, flags = array.next()
  _, shape = array.next()
  _, name = array.next()
  if len(flags) != 8 or len(shape) % 4:
    raise ValueError('damaged: the head of an array')
  sides = struct.unpack(f'<{len(shape) // 4}i', shape)
  return flags[0], sides, name.decode('latin1')


def _rows(array: _Parts, count: int) -> list[Row]:
  """Reads the structures of an array behind its head."""
  _, raw = array.next()
  width = int.from_bytes(raw, 'little')
  _, names = array.next()
  if len(raw) != 4 or not 0 < width <= len(names) or len(names) % width:
    raise ValueError('damaged: the names of fields')
  fields = [
    names[i : i + width].split(b'\0')[0].decode('latin1')
    for i in range(0, len(names), width)
  ]
  if not 0 <= count <= array.left // (8 * len(fields)):
    raise ValueError(f'cut off: {count} structures')
  return [{field: _value(array) for field in fields} for _ in range(count)]


def _value(parts: _Parts) -> Any:
  """Returns the next value of a field."""
  kind, content = parts.next()
  if kind != _MATRIX:
    raise ValueError(f'damaged: a value of the kind {kind}')
  if not content:
    return None
  array = _Parts(content)
  of, _, _ = _head(array)
  if of != _TEXT and of not in _NUMERIC:
    return None
  kind, content = array.next()
  if of == _TEXT:
    return content.decode(_TEXTS.get(kind, 'latin1'), 'replace')
  dtype = np.dtype(_NUMBERS.get(kind, 'u1'))
  if len(content) < dtype.itemsize:
    return None
  return np.frombuffer(content, dtype, 1)[0].item()
