"""Images in an LMDB: a memory map with the keys in the order of their bytes.

It is opened for reading, without its lock file, so that any number of processes
and hosts can read one that lies on storage which cannot be written. The extra
`data` is imported once there is one.
"""

from collections.abc import Iterable
import os
import pathlib
import threading
from typing import Any

import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.files import stores


DATA = 'data.mdb'
# Environments that are open, by path: the library opens none twice. Without
# locks and writers a forked process may go on to use them.
_open: dict[str, Any] = {}
_lock = threading.Lock()


def is_lmdb(path: stores.Path) -> bool:
  """Whether a path is the folder of an LMDB."""
  return (path / DATA).is_file()


def _library() -> Any:
  try:
    import lmdb
  except ImportError as error:
    raise errors.UserError(
      f'an LMDB needs a library: {error}; install "pyramid_jax[data]".'
    ) from error
  return lmdb


def _environment(path: stores.Path) -> Any:
  """Returns the environment, which is opened once.

  Raises:
    UserError: it is in a store, damaged, or cut off.
  """
  if stores.is_remote(path):
    raise errors.UserError(
      f'{path}: an LMDB is mapped into memory, copy it to a disk of this host.',
      errors.DATA,
    )
  lmdb = _library()
  real = os.path.realpath(path)
  if real in _open:  # before the lock, which a thread may have held at a fork
    return _open[real]
  with _lock:
    if real in _open:
      return _open[real]
    try:
      found = lmdb.open(
        real, readonly=True, lock=False, create=False, readahead=False
      )
      pages, page = found.info()['last_pgno'] + 1, found.stat()['psize']
    except lmdb.Error as error:
      raise errors.UserError(f'{path}: {error}.', errors.DATA) from error
    size = (path / DATA).stat().st_size
    if pages * page > size:
      found.close()
      raise errors.UserError(
        f'{path / DATA} is cut off: {size} of {pages * page} bytes.',
        errors.DATA,
      )
    _open[real] = found
    return found


class Lmdb:
  """The values of an LMDB by their keys (see `image_stores.Store`).

  May be used by several threads and processes.

  Attributes:
    names: the keys as text, sorted.
  """

  def __init__(self, path: stores.Path, cache: pathlib.Path | None = None):
    """Reads the keys, or what is kept of them.

    Args:
      path: the folder.
      cache: see `index_cache.folder`; None for that of the user.

    Raises:
      UserError: see `_environment`; or there are no keys.
    """
    self._path = path
    _environment(path)  # A forked process inherits it.
    with errors.user_errors(value=errors.DATA):
      arrays = index_cache.of_files(
        [path / DATA], {'of': 'keys', 'version': 1}, self._keys, cache
      )
    text = arrays['names'].tobytes().decode('utf-8', 'surrogateescape')
    self.names: tuple[str, ...] = tuple(text.split('\0'))

  def _keys(self) -> index_cache.Arrays:
    with _environment(self._path).begin() as transaction:
      keys = [bytes(x) for x in transaction.cursor().iternext(values=False)]
    if not keys:
      raise ValueError(f'{self._path} has no images')
    if any(b'\0' in key for key in keys):
      raise ValueError(f'{self._path}: its keys are no names')
    return {'names': np.frombuffer(b'\0'.join(keys), np.uint8)}

  def where(self, row: int) -> str:
    """Returns what messages call an image."""
    return f'{self._path}/{self.names[row]}'

  def sizes(self, rows: Iterable[int]) -> dict[str, int | None]:
    """Returns the size of the file of all, and keys: theirs are not known."""
    size = os.stat(self._path / DATA).st_size
    return {DATA: size, **{self.names[row]: None for row in rows}}

  def load(self, row: int) -> bytes:
    """Returns an encoded image, or raises `BrokenImage`."""
    key = self.names[row].encode('utf-8', 'surrogateescape')
    with _environment(self._path).begin(buffers=True) as transaction:
      value = transaction.get(key)
      if value is None:
        raise images.BrokenImage(self.where(row), 'it is not there any more')
      if len(value) > limits.IMAGE_BYTES:
        most = limits.IMAGE_BYTES
        raise images.BrokenImage(
          self.where(row), f'{len(value)} bytes, at most {most} are read'
        )
      return bytes(value)
