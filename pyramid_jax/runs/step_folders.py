"""The folders in `WORKDIR/checkpoints`: which are steps, and their names.

  N                            a checkpoint
  N.bad-REASON                 one that is damaged and was replaced
  N.NAME                       a state that was put aside, such as N.diverged
  N.orbax-checkpoint-tmp       one that is being written
  N.deleting                   one that is being removed
Anything else there is left alone.
"""

import os
import pathlib
import re
import shutil
import time

from pyramid_jax.files import retries
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
_BAD = re.compile(r'[0-9]+\.bad-.*')

Path = str | os.PathLike[str]


def directory(workdir: Path) -> pathlib.Path:
  """Returns the folder of a workdir's checkpoints, which may not exist."""
  return pathlib.Path(os.path.abspath(workdir)) / DIRECTORY


def of_step(workdir: Path, step: int) -> pathlib.Path:
  """Returns the folder of a step."""
  return directory(workdir) / str(step)


def steps(workdir: Path) -> list[int]:
  """Returns the steps that seem to be there, newest first.

  Raises:
    UserError: the folder cannot be read.
  """
  names = _folders(directory(workdir))
  found = (int(name) for name in names if _STEP.fullmatch(name))
  return sorted(found, reverse=True)


def bad(workdir: Path) -> list[str]:
  """Returns the names of those that are damaged."""
  names = _folders(directory(workdir))
  return sorted(name for name in names if _BAD.fullmatch(name))


def temporary(workdir: Path, step: int) -> pathlib.Path:
  """Returns the folder of a step that is being written."""
  return directory(workdir) / f'{step}{_TEMPORARY}'


def leftovers(workdir: Path) -> list[pathlib.Path]:
  """Returns the folders of steps that are being written or removed.

  Of a run that is not going on, they are what a killed process has left.
  """
  folder = directory(workdir)
  names = _folders(folder)
  return [folder / name for name in names if _LEFTOVER.fullmatch(name)]


def remove_written(path: pathlib.Path) -> None:
  """Removes a folder that threads of a failed save may still write into.

  They make folders anew: it is removed until it stays away for a moment, or
  until `_CALM_SECS` have passed.
  """
  end, looks = time.monotonic() + _CALM_SECS, 0
  while looks < _CALM_LOOKS and time.monotonic() < end:
    looks = 0 if path.exists() else looks + 1
    shutil.rmtree(path, ignore_errors=True)
    time.sleep(_LOOK_SECS)


def set_aside(path: pathlib.Path, reason: str) -> pathlib.Path:
  """Renames a checkpoint; it is never deleted."""
  names = (f'{path.name}.bad-{reason}{n}' for n in ('', *range(2, 1000)))
  free = (path.with_name(name) for name in names)
  return path.rename(next(p for p in free if not p.exists()))


def _folders(folder: pathlib.Path) -> list[str]:
  """Returns the names of the folders in a folder, [] if it is not there."""

  def read() -> list[str]:
    try:
      with os.scandir(folder) as found:
        return [x.name for x in found if x.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
      return []

  with reading.storage(folder):
    return retries.repeat(read, folder)
