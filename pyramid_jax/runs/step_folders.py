"""The folders in `WORKDIR/checkpoints`: which are steps, and their names.

  N                            a checkpoint
  N.bad-REASON                 one that is damaged and was replaced
  N.NAME                       a state that was put aside, such as N.diverged
  N.orbax-checkpoint-tmp       one that is being written
  N.deleting                   one that is being removed
Anything else there is left alone.

In a store a folder has no name that could be changed. There N is a checkpoint
if it has Orbax's mark that it is whole, which is written last and removed
first, and no object N.bad-REASON beside it says that it is damaged.
"""

import os
import re
import time

from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.runs import reading


DIRECTORY = 'checkpoints'
# Other digits than these, or zeros before them, are no name of a step.
_STEP = re.compile(r'0|[1-9][0-9]{0,17}')
DELETING = '.deleting'
_TEMPORARY = '.orbax-checkpoint-tmp'  # as Orbax calls it
_LEFTOVER = re.compile(
  rf'[0-9]+({re.escape(_TEMPORARY)}|{re.escape(DELETING)})'
)
# Of a folder that is removed while it is written: looks that find nothing.
_CALM_LOOKS, _LOOK_SECS, _CALM_SECS = 3, 0.02, 5.0
_BAD = re.compile(r'([0-9]+)\.bad-.*')
_WHOLE = 'commit_success.txt'  # Orbax's mark in a store

Path = str | os.PathLike[str]


def directory(workdir: Path) -> stores.Path:
  """Returns the folder of a workdir's checkpoints, which may not exist."""
  return stores.absolute(workdir) / DIRECTORY


def of_step(workdir: Path, step: int) -> stores.Path:
  """Returns the folder of a step."""
  return directory(workdir) / str(step)


def steps(workdir: Path) -> list[int]:
  """Returns the steps that seem to be there, newest first.

  Raises:
    UserError: the folder cannot be read.
  """
  folder = directory(workdir)
  names = _names(folder)
  found = [name for name in names if _STEP.fullmatch(name)]
  if stores.is_remote(folder):
    damaged = {m[1] for m in map(_BAD.fullmatch, names) if m}
    with reading.storage(folder):
      found = [x for x in found if x not in damaged and is_whole(folder / x)]
  return sorted(map(int, found), reverse=True)


def is_whole(path: stores.Path) -> bool:
  """Whether a folder in a store is a checkpoint that was written to its end."""
  return (path / _WHOLE).is_file()


def bad(workdir: Path) -> list[str]:
  """Returns the names of those that are damaged."""
  names = _names(directory(workdir))
  return sorted(name for name in names if _BAD.fullmatch(name))


def temporary(workdir: Path, step: int) -> stores.Path:
  """Returns the folder of a step that is being written."""
  folder = directory(workdir)
  end = '' if stores.is_remote(folder) else _TEMPORARY
  return folder / f'{step}{end}'


def leftovers(workdir: Path) -> list[stores.Path]:
  """Returns the folders of steps that are being written or removed.

  Of a run that is not going on, they are what a killed process has left.
  """
  folder = directory(workdir)
  names = _names(folder)
  if not stores.is_remote(folder):
    return [folder / name for name in names if _LEFTOVER.fullmatch(name)]
  damaged = {m[1] for m in map(_BAD.fullmatch, names) if m}
  found = (x for x in names if _STEP.fullmatch(x) and x not in damaged)
  with reading.storage(folder):
    return [folder / name for name in found if not is_whole(folder / name)]


def clear(path: stores.Path) -> None:
  """Removes what is in the way of a new checkpoint in a store.

  That is one of this step that is damaged, and what says so.

  Raises:
    OSError: it cannot be removed.
  """
  if stores.is_remote(path):
    remove(path)
    for name in stores.names(path.parent):
      match = _BAD.fullmatch(name)
      if match and match[1] == path.name:
        stores.remove(path.with_name(name))


def remove(path: stores.Path) -> None:
  """Removes a checkpoint, which is none from the first moment on.

  Raises:
    OSError: it cannot be removed.
  """
  if stores.is_remote(path):
    stores.remove(path / _WHOLE)
  else:
    path = path.rename(path.with_name(path.name + DELETING))
  stores.remove_folder(path)


def remove_written(path: stores.Path) -> None:
  """Removes a folder that threads of a failed save may still write into.

  They make folders anew: it is removed until it stays away for a moment, or
  until `_CALM_SECS` have passed.
  """
  end, looks = time.monotonic() + _CALM_SECS, 0
  while looks < _CALM_LOOKS and time.monotonic() < end:
    looks = 0 if path.exists() else looks + 1
    stores.remove_folder(path, ignore_errors=True)
    time.sleep(_LOOK_SECS)


def set_aside(path: stores.Path, reason: str) -> stores.Path:
  """Renames a checkpoint; it is never deleted.

  In a store it is marked, and stays until the run saves the same step again.
  """
  names = (f'{path.name}.bad-{reason}{n}' for n in ('', *range(2, 1000)))
  free = (path.with_name(name) for name in names)
  if not stores.is_remote(path):
    return path.rename(next(p for p in free if not p.exists()))
  text = f'{path} is damaged ({reason}) and no checkpoint.\n'
  return next(p for p in free if stores.create(p, text.encode()))


def _names(folder: stores.Path) -> list[str]:
  """Returns the names of the folders in a folder, [] if it is not there.

  In a store, those of objects too.
  """

  def read() -> list[str]:
    if stores.is_remote(folder):
      return stores.names(folder)
    try:
      with os.scandir(folder) as found:
        return [x.name for x in found if x.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
      return []

  with reading.storage(folder):
    return retries.repeat(read, folder)
