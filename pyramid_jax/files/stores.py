"""Files on a disk of this machine, and objects in a store, `gs://BUCKET/NAME`.

`path` gives a `pathlib.Path` for the first and a `RemotePath`, which is an
`etils.epath.Path`, for the second; both name, test, list and read in the same
words. Only whole objects are written to a store: one appears, or takes the
place of another, in one moment, and is then what everybody reads. Nothing there
is renamed, appended to, linked or locked, and a folder is no more than the
beginning of some names.

The extra `gcs` is imported once a name of a store is met.
"""

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib
import tempfile
from typing import IO
from typing import TypeAlias

from etils import epath

from pyramid_jax import errors
from pyramid_jax.files import remote_path


GS = remote_path.GS
_IN_MEMORY = 32 << 20  # bytes of an object; larger ones lie on a disk meanwhile

Name = str | os.PathLike[str]
Path: TypeAlias = pathlib.Path | epath.Path


def is_remote(name: Name) -> bool:
  """Whether a name is that of an object or a folder in a store."""
  return os.fspath(name).startswith(GS)


def path(name: Name) -> Path:
  """Returns the path of a name, which need not exist.

  Raises:
    UserError: a name in a store that is not served, that has no bucket, or the
      packages for it are not installed.
  """
  text = os.fspath(name)
  scheme, is_url, rest = text.partition('://')
  if not is_url:
    return pathlib.Path(text)
  if scheme != 'gs':
    raise errors.UserError(
      f'{text}: of the stores of objects {GS}BUCKET/NAME alone is served.'
    )
  bucket, *parts = rest.rstrip('/').split('/')
  if not bucket or not all(parts) or {'.', '..'} & {bucket, *parts}:
    raise errors.UserError(f'{text}: must be {GS}BUCKET/NAME/NAME.')
  remote_path.prepare(text)
  return remote_path.RemotePath(f'{GS}{bucket}', *parts)


def absolute(name: Name) -> Path:
  """Returns the path of a name in any working directory, see `path`."""
  found = path(name)
  return found if is_remote(found) else pathlib.Path(os.path.abspath(found))


def check(place: Path) -> None:
  """Raises a UserError of one line for a store that does not answer.

  It has no permission, or there is no network. What is not there is no error.
  """
  if not is_remote(place):
    return
  try:
    names(place)
  except OSError as error:
    is_denied = error.errno in (errno.EACCES, errno.EPERM)
    raise errors.UserError(
      f'{errors.reason(error)}; the credentials are those of `gcloud auth'
      ' application-default login`, or of the service account of the machine.',
      errors.MISSING if is_denied else errors.RESTART,
    ) from error


def names(folder: Path) -> list[str]:
  """Returns the names in a folder, sorted; [] if it is no folder.

  Raises:
    OSError: it cannot be read.
  """
  with remote_path.answers(folder):
    try:
      found = [child.name for child in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
      return []
  return sorted(name for name in found if name)


def put(place: Path, data: bytes) -> None:
  """Writes an object of a store as a whole.

  Raises:
    OSError: it cannot be written; then it is what it was.
  """
  with remote_path.answers(place):
    remote_path.system().pipe_file(os.fspath(place), data)


def create(place: Path, data: bytes) -> bool:
  """Writes an object of a store unless one of that name is there.

  Of all who try at once, one alone gets True.

  Raises:
    OSError: it cannot be written.
  """
  with remote_path.answers(place):
    try:
      remote_path.system().pipe_file(os.fspath(place), data, mode='create')
    except FileExistsError:
      return False
  return True


@contextlib.contextmanager
def written(place: Path) -> Iterator[IO[bytes]]:
  """Gives a file on a disk, which becomes an object of a store in the end.

  What fails in the context writes nothing.

  Raises:
    OSError: it cannot be written.
  """
  with tempfile.TemporaryDirectory(prefix='pyramid_jax_') as folder:
    file = pathlib.Path(folder) / 'object'
    with file.open('w+b') as stream:
      yield stream
    put_file(place, file)


def put_file(place: Path, file: pathlib.Path) -> None:
  """Writes a local file as an object of a store, see `put`."""
  if file.stat().st_size <= _IN_MEMORY:
    put(place, file.read_bytes())
    return
  with remote_path.answers(place):
    remote_path.system().put_file(os.fspath(file), os.fspath(place))


def modified(place: Path) -> float | None:
  """Returns when an object was written, in seconds of the store's clock.

  None for one that is not there.

  Raises:
    OSError: it cannot be read.
  """
  with remote_path.answers(place):
    try:
      return remote_path.system().modified(os.fspath(place)).timestamp()
    except FileNotFoundError:
      return None


def remove(place: Path) -> None:
  """Removes a file or an object if it is there; OSError if that fails."""
  with remote_path.answers(place):
    place.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
  """Removes all objects of a store below a name; OSError if that fails.

  What was removed does not come back; a second call goes on after a failure.
  """
  with remote_path.answers(folder):
    system, name = remote_path.system(), os.fspath(folder)
    found = sorted(system.find(name))
    if found:
      system.rm(found)
