"""Zip archives that somebody else may have made; nothing is unpacked to disk.

What the directory says is compared with the size of the file before anything is
read, so that neither a bomb nor members that overlap cost memory.
"""

from collections.abc import Iterator
import contextlib
import io
import os
import struct
import tokenize
from typing import BinaryIO
import zipfile
import zlib

from pyramid_jax import errors
from pyramid_jax import limits


START = b'PK\x03\x04'
EMPTY = b'PK\x05\x06'  # how an archive without members begins
# What reading a member to its end raises on damage.
CUT = (EOFError, MemoryError, zlib.error, zipfile.BadZipFile)
# What zipfile, and readers of what is in it, raise on damage.
DAMAGE = (
  *(ValueError, LookupError, TypeError, AttributeError, OverflowError),
  *(SyntaxError, RuntimeError, struct.error, tokenize.TokenError),
  *CUT,
)
_ENCRYPTED = 0x1  # a bit of a member's flags
_TAIL = (1 << 16) + 22  # bytes in which the end of an archive begins
_MANY = 0xFFFF  # as a number of members: it is elsewhere
_LOCAL_HEADER = 30  # bytes of a member's header, before its name


class _Bounded(io.RawIOBase):
  """A file of which at most `most` bytes are read at once; None for any.

  That is how large the directory of an archive may be.
  """

  def __init__(self, file: BinaryIO, most: int | None):
    self._file, self.most = file, most

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    return self._file.seek(offset, whence)

  def tell(self) -> int:
    return self._file.tell()

  def read(self, size: int = -1) -> bytes:
    if self.most is not None and size > self.most:
      raise ValueError(f'a directory of {size} bytes; limit: {self.most}')
    return self._file.read(size)


@contextlib.contextmanager
def damage(kinds: tuple[type[Exception], ...] = DAMAGE) -> Iterator[None]:
  """Makes ValueErrors of one line of what damaged files raise."""
  try:
    yield
  except kinds as error:
    hidden = error.__context__
    if isinstance(hidden, OSError) and errors.is_transient(hidden):
      raise hidden from None
    text = ' '.join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, MemoryError):
      text = f'too large for the memory: {text}'
    elif type(error) is not ValueError:
      text = f'damaged: {text}'
    raise ValueError(text) from error


def opened(
  file: BinaryIO, members: int, inflated: int, ratio: int
) -> zipfile.ZipFile:
  """Opens an archive whose directory says nothing impossible.

  Args:
    file: open; it stays open as long as the archive is used.
    members: the most that it may have.
    inflated: bytes to which compressed members may unpack, in addition to
      `ratio` times the bytes of the file.
    ratio: see there.

  Raises:
    ValueError: one line: damage, a limit, encryption, two members of one name,
      or a compression other than that of zip itself.
  """
  bounded = _Bounded(file, limits.ZIP_DIRECTORY_BYTES)
  with damage():
    archive = zipfile.ZipFile(bounded)
  bounded.most = None
  found, size = archive.infolist(), os.fstat(file.fileno()).st_size
  if len(found) > members:
    raise ValueError(f'{len(found)} members; limit: {members}')
  is_empty = os.pread(file.fileno(), len(EMPTY), 0) == EMPTY
  is_whole = _said(file, size) in (len(found), _MANY)
  if not is_whole or is_empty == bool(found):
    raise ValueError('damaged: the directory lacks members')
  if len(archive.NameToInfo) < len(found):
    raise ValueError('two members have one name')
  unpacked = stored = 0
  for member in found:
    _check(member, size)
    is_packed = member.compress_type != zipfile.ZIP_STORED
    stored += member.compress_size if is_packed else member.file_size
    unpacked += member.file_size if is_packed else 0
  if stored > size:
    raise ValueError('damaged: the members are larger than the file')
  if unpacked > inflated + ratio * size:
    raise ValueError(
      f'{size} bytes that unpack to {unpacked}; limit:'
      f' {inflated + ratio * size}, unless they are stored without compression'
    )
  return archive


def _said(file: BinaryIO, size: int) -> int:
  """Returns how many members the end of an archive says that it has.

  The library believes the bytes of the directory, which may be a part of it.
  """
  tail = os.pread(file.fileno(), _TAIL, max(size - _TAIL, 0))
  with damage():
    return struct.unpack_from('<H', tail, tail.rindex(EMPTY) + 10)[0]


def _check(member: zipfile.ZipInfo, size: int) -> None:
  name = member.filename[:200]
  if not 0 <= member.header_offset <= size - _LOCAL_HEADER:
    raise ValueError(f'damaged: {name!r} is not in the file')
  if member.flag_bits & _ENCRYPTED:
    raise ValueError(f'{name!r} is encrypted')
  if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(
      f'{name!r} is compressed by method {member.compress_type}; read are'
      ' deflated members and stored ones'
    )


def place(file: BinaryIO, member: zipfile.ZipInfo) -> int | None:
  """Returns where the bytes of a member begin; None if it is compressed.

  Raises:
    ValueError: they are not in the file.
  """
  if member.compress_type != zipfile.ZIP_STORED:
    return None
  return start(file, member, member.file_size)


def start(file: BinaryIO, member: zipfile.ZipInfo, stored: int) -> int:
  """Returns where the bytes of a member begin, compressed or not.

  Args:
    file: the archive.
    member: of its directory.
    stored: how many bytes of the file are the member's.

  Raises:
    ValueError: they are not in the file.
  """
  name, size = member.filename[:200], os.fstat(file.fileno()).st_size
  head = os.pread(file.fileno(), _LOCAL_HEADER, member.header_offset)
  if len(head) < _LOCAL_HEADER or head[:4] != START:
    raise ValueError(f'damaged archive at {name!r}')
  behind = sum(struct.unpack('<HH', head[26:]))  # name and extra field
  begin = member.header_offset + _LOCAL_HEADER + behind
  if begin + stored > size:
    raise ValueError(f'{name!r} reaches beyond the end of the file')
  return begin
