"""Workdirs of any name, read-only, of others, moved, gone: one line or done."""

import os
import shutil
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from tests.helpers import full_disk
from tests.helpers import written_commands


Training = written_commands.Training
NAMES = [
  *('a' * 255, 'a\nb', ' a  b ', 'a:b', 's3:', 'ä 画', '-x', "a'b"),
  *('.', 'x/../y'),
]
# Name, the code and a part of its message.
REFUSED = {
  'long': ('a' * 300, errors.USAGE, 'at most 255 bytes'),
  'deep': ('a/' * 2100, errors.USAGE, 'longer than 3796 bytes'),
  'too deep for its files': ('a/' * 1900, errors.USAGE, 'longer than 3796'),
  'of bytes': (os.fsdecode(b'a\xff'), errors.USAGE, 'not UTF-8'),
}


def _serves(server, runs, name):
  runs.mkdir()
  command = Training(server, f'{runs}/{name}')
  child = command.start('--config.train.steps=1')
  assert child.wait() == errors.OK, child.text()
  assert checkpoints.steps(f'{runs}/{name}') == [1]
  assert os.path.isfile(f'{runs}/{name}/config.json')


def test_a_name_serves(server, tmp_path):
  _serves(server, tmp_path / 'runs', NAMES[0])


@pytest.mark.rounds
def test_any_name_serves(server, tmp_path):
  for number, name in enumerate(NAMES):
    _serves(server, tmp_path / str(number), name)


@pytest.mark.parametrize('case', REFUSED)
@pytest.mark.parametrize('mode', ['train', 'sample', 'evaluate'])
def test_a_name_that_cannot_be(server, tmp_path, case, mode):
  name, code, words = REFUSED[case]
  child = Training(server, tmp_path / name).start(f'--mode={mode}')
  assert child.wait() == code, child.text()
  written_commands.assert_one_line(child.text(), words)


def test_a_file_in_the_place_of_a_folder(server, tmp_path):
  workdir = tmp_path / 'run'
  workdir.touch()
  written_commands.told(Training(server, workdir).start(), 'File exists')
  below = Training(server, workdir / 'x').start()
  written_commands.told(below, 'Not a directory')
  workdir.unlink()
  for name in ('logs', 'tensorboard', 'checkpoints', 'samples'):
    workdir.mkdir()
    (workdir / name).touch()
    child = Training(server, workdir).start()
    assert child.wait() == errors.OUTPUT, child.text()
    written_commands.assert_one_line(child.text(), name)
    assert (workdir / name).read_bytes() == b''
    shutil.rmtree(workdir)


def test_a_relative_workdir(server, tmp_path):
  child = Training(server, 'a/../b').start(
    '--config.train.steps=1', cwd=tmp_path
  )
  assert child.wait() == errors.OK, child.text()
  assert checkpoints.steps(tmp_path / 'b') == [1]


def test_a_read_only_disk_is_noticed_at_once(server, tmp_path):
  with full_disk.mounted(tmp_path / 'disk', '64m', 'ro') as disk:
    start = time.monotonic()
    child = Training(server, disk.folder / 'run').start()
    written_commands.told(child, 'Read-only file system')
    assert time.monotonic() - start < 10  # nothing was built
  assert 'mesh' not in child.text()


@pytest.mark.skipif(os.getuid() != 0, reason='needs to become another user')
def test_a_workdir_of_another_user(server, tmp_path):
  tmp_path.chmod(0o755)
  for parent in tmp_path.parents[:2]:
    parent.chmod(0o755)
  nobody = 'tests.helpers.storage_faults:nobody'
  child = Training(server, tmp_path / 'run').start(before=nobody)
  written_commands.told(child, 'Permission denied')
  assert 'mesh' not in child.text()
  (tmp_path / 'closed').mkdir(0o700)
  child = Training(server, tmp_path / 'closed' / 'run').start(before=nobody)
  assert child.wait() == errors.OUTPUT, child.text()
  written_commands.assert_one_line(child.text(), 'Permission denied')


def _meanwhile(server, workdir):
  """Starts a slow training; returns it and its process after a checkpoint."""
  command = written_commands.Slow(server, workdir)
  child = command.start()
  child.until(lambda: checkpoints.steps(workdir))
  return command, child


def test_a_disk_that_becomes_read_only(server, tmp_path, untroubled):
  command, child = _meanwhile(server, tmp_path / 'run')
  with full_disk.mounted(tmp_path / 'run', '64m', 'ro'):
    assert child.wait() == errors.OUTPUT, child.text()
    written_commands.assert_one_line(child.text(), str(tmp_path / 'run'))
  command.goes_on(untroubled)


@pytest.mark.rounds
def test_a_workdir_that_is_moved_away(server, tmp_path, untroubled):
  workdir = tmp_path / 'run'
  command, child = _meanwhile(server, workdir)
  workdir.rename(tmp_path / 'moved')
  assert child.wait() == errors.OUTPUT, child.text()
  written_commands.assert_one_line(child.text(), str(workdir))
  assert not workdir.exists()
  (tmp_path / 'moved').rename(workdir)
  command.goes_on(untroubled)


@pytest.mark.rounds
def test_a_workdir_that_is_deleted(server, tmp_path):
  workdir = tmp_path / 'run'
  _, child = _meanwhile(server, workdir)
  workdir.rename(tmp_path / 'moved')
  shutil.rmtree(tmp_path / 'moved')
  assert child.wait() == errors.OUTPUT, child.text()
  written_commands.assert_one_line(child.text(), str(workdir))
  assert not workdir.exists(), list(workdir.rglob('*'))
