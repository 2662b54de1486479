"""File systems of a chosen size, and commands whose files lie on them."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess

import pytest

from pyramid_jax.evaluation import unfinished
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import configs
from tests.helpers import killed
from tests.helpers import painter


@dataclasses.dataclass(frozen=True)
class Disk:
  """A folder that is a file system of its own, in memory."""

  folder: pathlib.Path

  def resize(self, size):
    """Changes its size, such as '64k'."""
    _mount('-o', f'remount,size={size}', self.folder)


@contextlib.contextmanager
def mounted(folder, size='64m', *options):
  """Mounts one; the test is skipped where that is not allowed.

  What the folder had is covered meanwhile.
  """
  folder.mkdir(parents=True, exist_ok=True)
  try:
    values = ','.join([f'size={size}', *options])
    _mount('-t', 'tmpfs', '-o', values, 'tmpfs', folder)
  except (OSError, subprocess.CalledProcessError) as error:
    pytest.skip(f'no file system can be mounted here: {error}')
  try:
    yield Disk(folder)
  finally:
    subprocess.run(['umount', '-l', folder], check=True)


def _mount(*arguments):
  command = ['mount', *map(str, arguments)]
  subprocess.run(command, check=True, capture_output=True)


def paint():
  """Puts the painter in place, and an evaluation that saves every batch."""
  patch = pytest.MonkeyPatch()
  painter.install(patch)
  patch.setattr(unfinished, 'SHARE', float('inf'))


def write_painted(workdir):
  """Writes the run of the painter."""
  workdir.mkdir(parents=True, exist_ok=True)
  config = configs.change(killed.config(), {'sample__batch_size': 2})
  workdir_lib.write_record(workdir, config, ())


def tree(folder):
  """Returns the content of all files but locks by their paths."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and path.name != 'lock'
  }


def left(folder):
  """Returns what is no file of a run: what was being written."""
  names = (os.path.relpath(path, folder) for path in folder.rglob('*'))
  return sorted(name for name in names if 'tmp' in pathlib.Path(name).name)
