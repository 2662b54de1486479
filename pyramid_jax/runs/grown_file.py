"""A file that grows by whole records, such as lines."""

import contextlib
import os
import stat
from typing import Protocol

from pyramid_jax import errors
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.runs import grown_object


Path = str | os.PathLike[str]


class Grown(Protocol):
  """A file that is appended to, on a disk or in a store."""

  @property
  def size(self) -> int:
    """Its bytes."""

  def add(self, record: bytes) -> None:
    """Appends a record; UserError if that fails."""

  def flush(self) -> None:
    """Sends what a store does not have yet; UserError if that fails."""

  def close(self) -> None:
    """Closes it, once; UserError if that fails."""


def opened(path: Path, is_new: bool = False) -> Grown:
  """Opens a file, or an object of a store; see both."""
  place = stores.path(path)
  if stores.is_remote(place):
    return grown_object.GrownObject(place, is_new)
  return GrownFile(path, is_new)


class GrownFile:
  """A file that is appended to; it never ends within a record.

  It is not written through a link: what a link leads to may be anybody's.
  """

  def __init__(self, path: Path, is_new: bool = False):
    """Opens a file, which is made if it is not there.

    Args:
      path: in an existing folder.
      is_new: whether it must not be there.

    Raises:
      UserError: it cannot be written.
    """
    self._path = path
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    flags |= os.O_NOFOLLOW | (os.O_EXCL if is_new else 0)
    with errors.writing(path):
      check(path)
      self._file = retries.repeat(lambda: os.open(path, flags, 0o666), path)

  @property
  def size(self) -> int:
    """Its bytes."""
    return os.fstat(self._file).st_size

  def add(self, record: bytes) -> None:
    """Appends a record; what fails leaves nothing of it.

    Raises:
      UserError: it cannot be written.
    """
    with errors.writing(self._path):
      size = os.fstat(self._file).st_size
      retries.repeat(lambda: self._write(record, size), self._path)

  def flush(self) -> None:
    """Does nothing: what was added is in the file."""

  def _write(self, record: bytes, size: int) -> None:
    rest = memoryview(record)
    try:
      while rest:
        rest = rest[os.write(self._file, rest) :]
    except BaseException:
      with contextlib.suppress(OSError):
        os.ftruncate(self._file, size)
      raise

  def close(self) -> None:
    """Closes the file, once; some storage says only now that it is full."""
    file, self._file = self._file, -1
    if file >= 0:
      with errors.writing(self._path):
        os.close(file)


def check(path: Path) -> None:
  """Raises an OSError for what is there and is no file: a link, a device.

  Objects of a store are neither.
  """
  if stores.is_remote(path):
    return
  try:
    mode = os.lstat(path).st_mode
  except FileNotFoundError:
    return
  if stat.S_ISLNK(mode):
    raise OSError('it is a link, and files of a run are not; remove it')
  if not stat.S_ISREG(mode):
    raise OSError('it is no file; remove it')
