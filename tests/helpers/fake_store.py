"""A store of objects in the memory of a test, strict where real ones are.

It has whole objects by their names, and no folders. What no store has is an
error: renaming, copying, appending, changing a part, making folders that stay.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import datetime
import importlib
import io
from typing import Any

from etils.epath import backend
import fsspec


class RefusedError(Exception):
  """Something was asked that no store of objects does."""


class RangeError(Exception):
  """The answer to a request for bytes behind the end of an object."""

  __module__ = 'gcsfs.retry'
  code = 416


class FakeStore(fsspec.AbstractFileSystem):
  """Objects by name, each with a generation and a time of its clock."""

  protocol = ('gs', 'gcs')
  cachable = True
  objects: dict[str, tuple[bytes, int, float]] = {}
  log: list[tuple[str, str]] = []  # (what was done, to which object)
  clock = 1000.0  # seconds
  count = 0  # of generations
  fault: Callable[[str, str], None] = lambda what, name: None

  @classmethod
  def did(cls, what: str, name: str) -> None:
    cls.log.append((what, name))
    cls.fault(what, name)

  def pipe_file(
    self, path: str, value: bytes, mode: str = 'overwrite', **kwargs: Any
  ) -> None:
    del kwargs
    name = self._strip_protocol(path)
    self.did('write', name)
    if mode == 'create' and name in self.objects:
      raise FileExistsError(name)
    cls = type(self)
    cls.count += 1
    self.objects[name] = bytes(value), cls.count, cls.clock

  def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
    with open(lpath, 'rb') as file:
      self.pipe_file(rpath, file.read())

  def cat_file(self, path: str, start=None, end=None, **kwargs: Any) -> bytes:
    name = self._strip_protocol(path)
    self.did('read', name)
    if name not in self.objects:
      raise FileNotFoundError(name)
    data = self.objects[name][0]
    if start is not None and start >= len(data):
      raise RangeError
    return data[start:end]

  def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
    name = self._strip_protocol(path)
    self.did('look', name)
    if name in self.objects:
      data, generation, time = self.objects[name]
      moment = datetime.datetime.fromtimestamp(time, datetime.UTC)
      return {
        'name': name,
        'size': len(data),
        'type': 'file',
        'generation': generation,
        'mtime': moment,
      }
    if any(other.startswith(f'{name}/') for other in self.objects):
      return {'name': name, 'size': 0, 'type': 'directory'}
    raise FileNotFoundError(name)

  def modified(self, path: str) -> datetime.datetime:
    return self.info(path)['mtime']

  def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
    name = self._strip_protocol(path)
    self.did('list', name)
    if name in self.objects:
      return [self.info(name)] if detail else [name]
    rest = [
      x[len(name) + 1 :] for x in self.objects if x.startswith(f'{name}/')
    ]
    if not rest:
      raise FileNotFoundError(name)
    found = sorted({f'{name}/{x.split("/")[0]}' for x in rest})
    return [self.info(x) for x in found] if detail else found

  def _rm(self, path: str) -> None:
    name = self._strip_protocol(path)
    self.did('remove', name)
    if name not in self.objects:
      raise FileNotFoundError(name)
    del self.objects[name]

  def rm(self, path: Any, recursive: bool = False, maxdepth: Any = None):
    for one in [path] if isinstance(path, str) else path:
      for name in self.find(one) if recursive else [one]:
        self._rm(name)

  def _open(self, path: str, mode: str = 'rb', **kwargs: Any) -> Any:
    if mode == 'rb':
      return io.BytesIO(self.cat_file(path))
    if mode == 'wb':
      return _Written(self, path)
    raise RefusedError(f'open {path} as {mode!r}')

  def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any):
    """Does nothing, as stores do."""

  def makedirs(self, path: str, exist_ok: bool = False):
    """Does nothing, as stores do."""

  def rmdir(self, path: str) -> None:
    raise RefusedError(f'rmdir {path}')

  def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
    raise RefusedError(f'copy {path1} to {path2}')

  def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
    raise RefusedError(f'rename {path1} to {path2}')

  rename = move = copy = mv


class _Written(io.BytesIO):
  """An object that is there once it is closed."""

  def __init__(self, store: FakeStore, path: str):
    super().__init__()
    self._store, self._path = store, path

  def close(self) -> None:
    if not self.closed:
      self._store.pipe_file(self._path, self.getvalue())
    super().close()


@contextlib.contextmanager
def installed() -> Iterator[type[FakeStore]]:
  """Gives an empty store, which serves `gs://` within the context."""

  class Store(FakeStore):
    objects: dict[str, tuple[bytes, int, float]] = {}
    log: list[tuple[str, str]] = []

  registry: Any = importlib.import_module('fsspec.registry')
  known = {name: registry.registry.get(name) for name in FakeStore.protocol}
  fsspec_backend: Any = backend.fsspec_backend
  for name in FakeStore.protocol:
    fsspec.register_implementation(name, Store, clobber=True)
  type(fsspec_backend)._get_filesystem.cache_clear()
  try:
    yield Store
  finally:
    for name, kind in known.items():
      registry._registry.pop(name)
      if kind is not None:
        fsspec.register_implementation(name, kind, clobber=True)
    type(fsspec_backend)._get_filesystem.cache_clear()
