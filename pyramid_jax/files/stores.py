"""Files on a disk of this machine, and objects in a store, `gs://BUCKET/NAME`.

`path` gives a `pathlib.Path` for the first and a `RemotePath`, which is an
`etils.epath.Path`, for the second; both name, test, list and read in the same
words. Only whole objects are written to a store: one appears, or takes the
place of another, in one moment, and is then what everybody reads. Nothing there
is renamed, appended to, linked or locked, and a folder is no more than the
beginning of some names.

The extra `gcs` is imported once a name of a store is met.
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from typing import TypeAlias

from etils import epath

from pyramid_jax import errors
from pyramid_jax.files import remote_path


GS = remote_path.GS
_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*://')
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
  match = _URL.match(text)
  if match is None:
    return pathlib.Path(text)
  if match[0] != GS:
    raise errors.UserError(
      f'{text}: of the stores of objects {GS}BUCKET/NAME alone is served.'
    )
  bucket, *parts = text.removeprefix(GS).rstrip('/').split('/')
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


def version(place: Path) -> str | None:
  """Returns what changes with every write of an object, None if there is none.

  Raises:
    OSError: it cannot be read.
  """
  try:
    return remote_path.RemotePath(place).stat().version
  except FileNotFoundError:
    return None


def remove(place: Path) -> None:
  """Removes a file or an object if it is there; OSError if that fails."""
  with remote_path.answers(place):
    place.unlink(missing_ok=True)


def remove_folder(folder: Path, ignore_errors: bool = False) -> None:
  """Removes a folder with all that is in it; OSError if that fails.

  Of objects, what was removed does not come back; a second call goes on.
  """
  if not is_remote(folder):
    shutil.rmtree(folder, ignore_errors)
    return
  ignored = [OSError] if ignore_errors else []
  with contextlib.suppress(*ignored), remote_path.answers(folder):
    system = remote_path.system()
    found = sorted(system.find(os.fspath(folder)))
    if found:
      system.rm(found)


def of_library(place: Path) -> Path:
  """Returns a path as Orbax takes it: in a store, one of etils itself."""
  return epath.Path(os.fspath(place)) if is_remote(place) else place


def sizes(folder: Path) -> dict[str, int]:
  """Returns the bytes of the files in a folder by name, {} if it is none.

  Raises:
    OSError: it cannot be read.
  """
  if is_remote(folder):
    try:
      entries = remote_path.RemotePath(folder).entries()
    except FileNotFoundError:
      return {}
    return {k: x.length for k, x in entries.items() if not x.is_directory}
  try:
    with os.scandir(folder) as found:
      return {x.name: x.stat().st_size for x in found if x.is_file()}
  except (FileNotFoundError, NotADirectoryError):
    return {}
