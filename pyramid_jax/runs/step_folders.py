"""The folders in `WORKDIR/checkpoints`: which are steps, and their names.

  N                            a checkpoint
  N.bad-REASON                 one that is damaged and was replaced
  N.NAME                       a state that was put aside, such as N.diverged
  N.orbax-checkpoint-tmp       one that is being written
Anything else there is left alone.
"""

import os
import pathlib
import re

from pyramid_jax.files import retries
from pyramid_jax.runs import reading


DIRECTORY = 'checkpoints'
# Other digits than these, or zeros before them, are no name of a step.
_STEP = re.compile(r'0|[1-9][0-9]{0,17}')
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
  names = _names(directory(workdir), folders=True)
  found = (int(name) for name in names if _STEP.fullmatch(name))
  return sorted(found, reverse=True)


def bad(workdir: Path) -> list[str]:
  """Returns the names of those that are damaged."""
  names = _names(directory(workdir), folders=True)
  return sorted(name for name in names if _BAD.fullmatch(name))


def set_aside(path: pathlib.Path, reason: str) -> pathlib.Path:
  """Renames a checkpoint; it is never deleted."""
  names = (f'{path.name}.bad-{reason}{n}' for n in ('', *range(2, 1000)))
  free = (path.with_name(name) for name in names)
  return path.rename(next(p for p in free if not p.exists()))


def _names(folder: pathlib.Path, folders: bool) -> list[str]:
  def read() -> list[str]:
    try:
      with os.scandir(folder) as found:
        return [x.name for x in found if not folders or x.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
      return []

  with reading.storage(folder):
    return retries.read(read, folder)
