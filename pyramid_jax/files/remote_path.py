"""Paths of objects in a store that read like those of files.

A `RemotePath` has the methods of `pathlib.Path` that reading needs, so that a
reader does not care where its data are. There are whole objects and parts of
them, no links, devices or handles of the system.
"""

from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import dataclasses
import errno
import fnmatch
import importlib.util
import io
import logging
import os
import stat as stat_lib
from typing import Any
from typing import TypeVar

from etils.epath import gpath

from pyramid_jax import errors
from pyramid_jax.files import retries


GS = 'gs://'
_PROTOCOL = 'gcs'  # as fsspec calls it
_PACKAGE = 'gcsfs'  # which fsspec imports for it
_LISTERS = 16  # folders that are listed at once
_BLOCK = 1 << 18  # bytes of a request, of an object that is read in parts
_NO_SUCH_RANGE = 416  # a status of HTTP

Name = str | os.PathLike[str]
T = TypeVar('T')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stat:
  """What is known of an object or of a folder of objects."""

  is_directory: bool
  length: int  # bytes
  mtime: int  # s
  version: str  # changes with the object

  @property
  def st_size(self) -> int:
    """Bytes, as `os.stat_result` names them."""
    return self.length

  @property
  def st_mtime_ns(self) -> int:
    """Time of change, as `os.stat_result` names it."""
    return self.mtime * 10**9

  @property
  def st_mode(self) -> int:
    """The kind, as `os.stat_result` names it."""
    return stat_lib.S_IFDIR if self.is_directory else stat_lib.S_IFREG


class RemotePath(gpath.PosixGPath):
  """A path of an object.

  Storage that fails for a moment is asked again. What goes wrong is an OSError
  with a number, unlike in the base class, where an object that cannot be
  looked at seems not to be there.
  """

  def stat(self) -> Stat:
    """Returns what is known; raises FileNotFoundError without any object."""
    return _stat(_asked(self, lambda fs: fs.info(os.fspath(self))))

  def exists(self) -> bool:
    """Whether there is an object, or one below."""
    return self._kind() is not None

  def is_file(self) -> bool:
    """Whether there is an object."""
    return self._kind() is False

  def is_dir(self) -> bool:
    """Whether there are objects below."""
    return self._kind() is True

  def _kind(self) -> bool | None:
    try:
      return self.stat().is_directory
    except FileNotFoundError:
      return None

  def entries(self) -> dict[str, Stat]:
    """Returns what a folder has by its names."""
    own = os.fspath(self).removeprefix(GS).rstrip('/')

    def listed(fs: Any) -> list[dict[str, Any]]:
      return fs.ls(os.fspath(self), detail=True)

    found = {}
    for info in _asked(self, listed):
      name = str(info['name']).removeprefix(GS).strip('/')
      if name != own:  # an object that stands for the folder itself
        found[name.rpartition('/')[2]] = _stat(info)
    return found

  def iterdir(self) -> Iterator['RemotePath']:
    """Yields the paths in a folder."""
    for name in self.entries():
      yield self / name

  def glob(self, pattern: str) -> Iterator['RemotePath']:
    """Yields the paths below that match a pattern without `**`."""
    first, _, rest = pattern.partition('/')
    if not self.is_dir():
      return
    for name, found in self.entries().items():
      if not fnmatch.fnmatchcase(name, first):
        continue
      if not rest:
        yield self / name
      elif found.is_directory:
        yield from (self / name).glob(rest)

  def open(self, mode: str = 'r', **kwargs: Any) -> Any:
    """Opens an object; for reading in binary, its parts are read as needed."""
    if mode != 'rb':
      return super().open(mode, **kwargs)
    return self.reader(self.stat())

  def reader(self, found: Stat) -> io.BufferedReader:
    """Opens an object, given what `stat` returns."""
    return io.BufferedReader(_Parts(self, found.length), _BLOCK)

  def read_bytes(self) -> bytes:
    """Returns a whole object."""
    return _asked(self, lambda fs: fs.cat_file(os.fspath(self)))

  def part(self, start: int, stop: int) -> bytes:
    """Returns bytes [start, stop) of an object, those that there are."""

    def read(fs: Any) -> bytes:
      try:
        return fs.cat_file(os.fspath(self), start, stop)
      except Exception as error:
        # An object that ends before the part has none of its bytes.
        if getattr(error, 'code', None) == _NO_SUCH_RANGE:
          return b''
        raise

    return _asked(self, read)

  def resolve(self, strict: bool = False) -> 'RemotePath':
    """Returns the path: it is absolute, and there are no links."""
    del strict
    return self

  absolute = resolve

  def expanduser(self) -> 'RemotePath':
    """Returns the path, in which `~` is a letter."""
    return self


class _Parts(io.RawIOBase):
  """An object of which those bytes are fetched that are asked for."""

  def __init__(self, path: RemotePath, size: int):
    super().__init__()
    self._path, self._size, self._at = path, size, 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._at

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}
    self._at = max(0, start[whence] + offset)
    return self._at

  def readinto(self, buffer: Any) -> int:
    stop = min(self._at + len(buffer), self._size)
    data = self._path.part(self._at, stop) if stop > self._at else b''
    buffer[: len(data)] = data
    self._at += len(data)
    return len(data)


def tree(folder: RemotePath) -> dict[str, Stat]:
  """Returns all objects below a folder by their paths in it.

  Folders are listed side by side, so that a data set with a folder for each
  class takes seconds, not minutes.
  """
  found: dict[str, Stat] = {}
  level = ['']
  with futures.ThreadPoolExecutor(_LISTERS) as pool:
    while level:
      below = []
      listed = pool.map(lambda prefix: (folder / prefix).entries(), level)
      for prefix, entries in zip(level, listed, strict=True):
        for name, stat in entries.items():
          if stat.is_directory:
            below.append(f'{prefix}{name}/')
          else:
            found[prefix + name] = stat
      level = below
  return found


def prepare(text: str) -> None:
  """Sets up what serves a store, before its first use.

  Raises:
    UserError: a package is not installed; the message has the text.
  """
  import fsspec

  is_given = _PROTOCOL in fsspec.registry
  if not is_given and importlib.util.find_spec(_PACKAGE) is None:
    raise errors.UserError(
      f'{text}: {GS} needs the package {_PACKAGE}: pip install'
      " 'pyramid_jax[gcs]'."
    )
  # It logs the traceback of every answer that is no success.
  logging.getLogger(_PACKAGE).setLevel(logging.CRITICAL)
  # A list that was read before does not know what others wrote since.
  fsspec.config.conf.setdefault(_PROTOCOL, {})['use_listings_cache'] = False


def system() -> Any:
  """Returns what serves a store, the one that etils has, too."""
  import fsspec

  return fsspec.filesystem(_PROTOCOL, finalize_on_close=True)


def _asked(name: RemotePath, ask: Callable[[Any], T]) -> T:
  """Returns the answer of the file system, which may fail a few times."""

  def once() -> T:
    with answers(name):
      return ask(system())

  return retries.repeat(once, name)


@contextlib.contextmanager
def answers(place: Name) -> Iterator[None]:
  """Raises what a store answers as an OSError, as a disk does."""
  try:
    yield
  except FileExistsError:
    raise
  except FileNotFoundError as error:
    if error.errno is not None:
      raise
    words = os.strerror(errno.ENOENT)
    raise FileNotFoundError(errno.ENOENT, words, os.fspath(place)) from error
  except Exception as error:
    is_late = isinstance(error, TimeoutError)
    number = errors.number(error) or (errno.ETIMEDOUT if is_late else None)
    is_local = not os.fspath(place).startswith(GS)
    if number is None or isinstance(error, OSError) and is_local:
      raise
    lines = str(error).splitlines() or [type(error).__name__]
    raise errors.StoreError(number, lines[0], os.fspath(place)) from error


def _stat(info: dict[str, Any]) -> Stat:
  when = info.get('mtime') or info.get('updated') or 0
  if hasattr(when, 'timestamp'):
    when = when.timestamp()
  is_number = isinstance(when, int | float)
  mtime = int(when) if is_number else 0
  name = str(info['name'])
  is_directory = info.get('type') == 'directory' or name.endswith('/')
  version = info.get('generation') or info.get('etag') or when
  return Stat(
    is_directory=is_directory,
    length=0 if is_directory else int(info.get('size') or 0),
    mtime=mtime,
    version=str(version),
  )
