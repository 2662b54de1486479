"""Files whose content somebody else decides: regular ones, of bounded size.

What is no regular file is not opened: a pipe waits for a writer, a device may
never end or may act on being read. An object of a store is read like a file;
storage that fails for a moment is then asked again here.
"""

import os
import stat
from typing import BinaryIO

from pyramid_jax.files import remote_path
from pyramid_jax.files import stores


_KINDS = (
  (stat.S_ISDIR, 'a folder'),
  (stat.S_ISFIFO, 'a pipe'),
  (stat.S_ISSOCK, 'a socket'),
  (stat.S_ISCHR, 'a device'),
  (stat.S_ISBLK, 'a device'),
)
_FIRST = 1 << 20  # bytes of an object that are asked for before its size
# What is a pipe by the time that it is opened does not wait.
_FLAGS = os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_BINARY', 0)


def check(path: str | os.PathLike[str], most: int) -> None:
  """Raises a ValueError for what is no file of at most `most` bytes.

  The message is a reason of one line without the path. OSError is raised as it
  is: no such file, or no permission.
  """
  if stores.is_remote(path):
    _check(remote_path.RemotePath(path).stat(), most)
  else:
    _check(os.stat(path), most)


def opened(path: str | os.PathLike[str], most: int) -> BinaryIO:
  """Opens a file of at most `most` bytes for reading; see `check`.

  Of an object, parts are fetched as they are read.
  """
  if stores.is_remote(path):
    place = remote_path.RemotePath(path)
    found = place.stat()
    _check(found, most)
    return place.reader(found)
  check(path, most)
  number = os.open(path, _FLAGS)
  try:
    _check(os.fstat(number), most)
  except ValueError:
    os.close(number)
    raise
  return os.fdopen(number, 'rb')


def read(path: str | os.PathLike[str], most: int) -> bytes:
  """Returns the content of a file of at most `most` bytes; see `check`.

  A file that grows while it is read is refused, too.
  """
  if stores.is_remote(path):
    return _read_object(path, most)
  with opened(path, most) as file:
    data = file.read(most + 1)
  if len(data) > most:
    raise ValueError(f'more than {most} bytes, which is the most that are read')
  return data


def _read_object(path: str | os.PathLike[str], most: int) -> bytes:
  """Returns the content of an object; a small one takes a single request."""
  place = remote_path.RemotePath(path)
  try:
    start = place.part(0, min(_FIRST, most + 1))
  except FileNotFoundError:
    check(path, most)  # a folder
    raise
  if len(start) < _FIRST and len(start) <= most:
    return start
  check(path, most)
  size = place.stat().length
  data = start + place.part(len(start), size)
  if len(data) != size:
    raise ValueError('it changed while it was read')
  return data


def text(path: str | os.PathLike[str], most: int) -> str:
  """Returns the content of a file of UTF-8, without a byte order mark.

  Raises:
    ValueError: other bytes; or see `check`.
  """
  return decoded(read(path, most))


def decoded(data: bytes) -> str:
  """Returns bytes of UTF-8 as text; the position of others is an error."""
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'not UTF-8 text: byte 0x{data[error.start]:02x} at {error.start}'
    ) from None


def _check(found: os.stat_result | remote_path.Stat, most: int) -> None:
  for is_kind, words in _KINDS:
    if is_kind(found.st_mode):
      raise ValueError(f'{words}, must be a file')
  if found.st_size > most:
    raise ValueError(f'{found.st_size} bytes, at most {most} are read')
