"""Checkpoints that cannot be written; the kernel refuses the writes."""

import resource

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import restoring
from pyramid_jax.runs import saving
from pyramid_jax.runs import step_folders
from tests.helpers import fake_run
from tests.helpers import run_contents


# A file of a checkpoint has 128 KiB and no other file so much.
WIDE = '--config.network.width=4096'
LIMIT = 1 << 16
BEFORE = 'tests.faults.failed_saves_test:refuse_step_2'


def refuse_step_2():
  """Lets no file grow too large from the save of step 2 on until the next."""
  fake_run.install()
  start = saving.Saver.start
  _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

  def limited(self, step, *rest):
    soft = LIMIT if step == 2 else hard
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return start(self, step, *rest)

  saving.Saver.start = limited


def temporaries(workdir):
  return list(checkpoints.directory(workdir).glob('*tmp*'))


@pytest.fixture(scope='module')
def whole(server, tmp_path_factory):
  """The arrays of a run that nothing stopped."""
  workdir = tmp_path_factory.mktemp('whole')
  child = server.fake(workdir, WIDE)
  assert child.wait() == errors.OK, child.text()
  return run_contents.arrays(workdir, 4)


def test_a_save_that_fails_ends_the_run(server, tmp_path, whole):
  child = server.fake(tmp_path, WIDE, before=BEFORE)
  assert child.wait(20) == errors.OUTPUT, child.text()
  lines = child.text().splitlines()
  assert 'Traceback' not in child.text()
  assert lines[-1].startswith('error: cannot write ')
  assert f'{step_folders.of_step(tmp_path, 2)}' in lines[-1]
  assert checkpoints.steps(tmp_path) == [1]
  assert not temporaries(tmp_path)
  restoring.verify(step_folders.of_step(tmp_path, 1))
  child = server.fake(tmp_path, WIDE)
  assert child.wait() == errors.OK, child.text()
  assert run_contents.arrays(tmp_path, 4) == whole


def test_a_run_may_go_on_without_a_checkpoint(server, tmp_path, whole):
  flags = (WIDE, '--config.train.on_save_error=warn')
  child = server.fake(tmp_path, *flags, before=BEFORE)
  assert child.wait() == errors.OK, child.text()
  assert 'goes on without this checkpoint' in child.text()
  assert checkpoints.steps(tmp_path) == [4, 3, 1]
  assert not temporaries(tmp_path)
  assert run_contents.arrays(tmp_path, 4) == whole


def test_the_last_checkpoint_must_be_written(server, tmp_path):
  flags = (WIDE, '--config.train.on_save_error=warn', '--config.train.steps=2')
  child = server.fake(tmp_path, *flags, before=BEFORE)
  assert child.wait(20) == errors.OUTPUT, child.text()
  assert 'Traceback' not in child.text()
  assert checkpoints.steps(tmp_path) == [1]


def test_a_folder_that_cannot_be_made(server, tmp_path):
  (tmp_path / 'checkpoints').touch()
  child = server.fake(tmp_path)
  assert child.wait(20) == errors.OUTPUT, child.text()
  assert 'Traceback' not in child.text()
  assert 'checkpoints' in child.text().splitlines()[-1]
