"""Copies of objects on a disk of this host, for what maps or seeks files.

Weights, arrays and record files are read by libraries that need a file of the
system, at random places and more than once. Such an object is fetched once for
each host and version into `folder()`; processes of a host wait for the one that
fetches it. A copy appears when it is whole. Nothing is removed from the folder
here, and all of it may be removed while no process runs.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import tempfile
from typing import BinaryIO
from typing import cast

from absl import logging

from pyramid_jax import errors
from pyramid_jax.files import digests
from pyramid_jax.files import remote_path
from pyramid_jax.files import stores


_PART = 32 << 20  # bytes of a request
_SMALL = 64 << 20  # bytes of a small object
_SAID = 8 << 20  # bytes of a file whose reading takes a while
_THREADS = 8  # requests at once
_KEY = 32  # letters of the name of a folder

Name = str | os.PathLike[str]


def folder() -> pathlib.Path:
  """Returns where the copies are: $PYRAMID_JAX_CACHE/objects."""
  base = os.environ.get('PYRAMID_JAX_CACHE') or '~/.cache/pyramid_jax'
  return pathlib.Path(base).expanduser() / 'objects'


def local(name: Name, want: str = '') -> pathlib.Path:
  """Returns a path on a disk: of a file itself, or of the copy of an object.

  Args:
    name: of a file or an object.
    want: the SHA-256 that a copy must have, '' for any. It is compared once for
      each host, and not with that of a file.

  Raises:
    ValueError: one line without the path: a folder, or another SHA-256.
    UserError: there is no room for a copy, or it cannot be written.
    OSError: the object is not there or cannot be read.
  """
  path = stores.path(name)
  if not stores.is_remote(path):
    return path
  found = remote_path.RemotePath(path).stat()
  if found.is_directory:
    raise ValueError('a folder, must be a file')
  return _copied(remote_path.RemotePath(path), found, want)


def opened(name: Name) -> BinaryIO:
  """Opens a file, or the copy of an object.

  That of a small object has no name, and is gone once it is closed. What is
  raised is that of `local`.
  """
  path = stores.path(name)
  if stores.is_remote(path):
    found = remote_path.RemotePath(path).stat()
    if not found.is_directory and found.length <= _SMALL:
      data = path.read_bytes()
      with errors.writing(tempfile.gettempdir()):
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        copy.write(data)
        copy.seek(0)
      return cast(BinaryIO, copy)
  return open(local(path), 'rb')


def mirrored(
  folder_of: remote_path.RemotePath, names: Iterable[str]
) -> pathlib.Path:
  """Returns a local folder with the copies of objects of a folder.

  What was mirrored before is there, too; newer objects take its place.

  Raises:
    OSError: see `local`.
    UserError: see `local`.
  """
  key = hashlib.sha256(os.fspath(folder_of).encode()).hexdigest()[:_KEY]
  place = folder() / key / folder_of.name
  for name in names:
    copy, link = local(folder_of / name), place / name
    with errors.writing(link):
      link.parent.mkdir(parents=True, exist_ok=True)
      if not (link.is_symlink() and link.readlink() == copy):
        aside = link.with_name(f'.{link.name}.{os.getpid()}')
        aside.unlink(missing_ok=True)
        aside.symlink_to(copy)
        aside.replace(link)
  return place


def _copied(
  path: remote_path.RemotePath, found: remote_path.Stat, want: str
) -> pathlib.Path:
  facts = [os.fspath(path), found.length, found.version, want]
  key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:_KEY]
  place = folder() / key / path.name
  if place.is_file():
    return place
  with errors.writing(place):
    place.parent.mkdir(parents=True, exist_ok=True)
  with one_at_a_time(place.parent) as is_alone:
    if not place.is_file():
      for left in place.parent.glob('.*') if is_alone else ():
        left.unlink(missing_ok=True)  # of a process that was killed
      errors.check_room(place, found.length)
      if found.length > _SAID:
        logging.info('fetching %s (%d bytes)', path, found.length)
      _fetch(path, found, place, want)
  return place


@contextlib.contextmanager
def one_at_a_time(place: pathlib.Path) -> Iterator[bool]:
  """Waits for other processes of this host that make what is in a folder.

  Yields whether there is none; where the file system has no locks, each process
  makes it by itself.
  """
  with errors.writing(place):
    handle = os.open(place, os.O_RDONLY)
  try:
    is_alone = False
    with contextlib.suppress(OSError):
      fcntl.flock(handle, fcntl.LOCK_EX)
      is_alone = True
    yield is_alone
  finally:
    os.close(handle)


def _fetch(
  path: remote_path.RemotePath,
  found: remote_path.Stat,
  place: pathlib.Path,
  want: str,
) -> None:
  """Writes a copy; one that is not what it must be is an error."""
  starts = range(0, found.length, _PART)
  with errors.writing(place):
    handle, name = tempfile.mkstemp(dir=place.parent, prefix='.')
  aside = pathlib.Path(name)

  def write(start: int) -> None:
    stop = min(start + _PART, found.length)
    data = path.part(start, stop)
    if len(data) != stop - start:
      raise ValueError(f'{len(data)} of {stop - start} bytes came at {start}')
    with errors.writing(place):
      done = 0
      while done < len(data):
        done += os.pwrite(handle, data[done:], start + done)

  try:
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      for _ in pool.map(write, starts):
        pass
    if path.stat() != found:
      raise ValueError('it changed while it was read')
    if want:
      check(aside, want)
    with errors.writing(place):
      aside.replace(place)
  finally:
    os.close(handle)
    aside.unlink(missing_ok=True)


def check(path: pathlib.Path, want: str) -> None:
  """Raises a ValueError for a file of another SHA-256."""
  if (got := digests.sha256(path)) != want:
    raise ValueError(
      f'has SHA-256 {got[:16]}..., its record says {want[:16]}...'
    )
