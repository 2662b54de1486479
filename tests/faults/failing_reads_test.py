"""Storage that fails while checkpoints are read: nothing is set aside."""

import errno
import os
import shutil
import subprocess
import sys

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import reading
from tests.helpers import fork_server
from tests.helpers import run_contents


SOURCE = fork_server.ROOT / 'tests' / 'helpers' / 'failing_reads.c'
# Part of the paths of a newest checkpoint: what Python reads, and TensorStore.
PARTS = (
  'checkpoints/4/meta/',
  'checkpoints/4/data/',
  'checkpoints/4/state/_METADATA',
  'checkpoints/4/state/manifest.ocdbt',
  'checkpoints/4/state/d/',
  'checkpoints/4/ema/d/',
)
# As TensorStore says that a read failed, and that a file is damaged.
FAILED = (
  'UNKNOWN: Error reading "a/0" in OCDBT database at local file "/x/": Failed'
  ' to read 9 bytes from file at offset 0: Input/output error'
  " [os_error_code='5']"
)
DAMAGED = (
  'DATA_LOSS: Error reading "a/0" in OCDBT database at local file "/x/": Error'
  ' decoding manifest: Encoded length (0) is less than minimum length (16)'
)


def wrapped(text):
  """Returns an error as Orbax raises it, because of one of TensorStore."""
  try:
    try:
      raise ValueError(text)
    except ValueError as error:
      raise Exception('Encountered error while reading array') from error
  except Exception as error:
    return error


def meaning(error):
  with reading.content('/x', 'unreadable'):
    raise error


@pytest.mark.parametrize(
  ('error', 'code'),
  [
    (OSError(errno.EIO, 'no'), errors.RESTART),
    (OSError(errno.ESTALE, 'no'), errors.RESTART),
    (TimeoutError(errno.ETIMEDOUT, 'no'), errors.RESTART),
    (PermissionError(errno.EACCES, 'no'), errors.MISSING),
    (wrapped(FAILED), errors.RESTART),
    (ValueError('UNAVAILABLE: the service is busy'), errors.RESTART),
    (ValueError('PERMISSION_DENIED: not yours'), errors.MISSING),
    (errors.UserError('stopped', errors.RESTART), errors.RESTART),
  ],
)
def test_failing_storage_is_no_damage(error, code):
  with pytest.raises(errors.UserError) as info:
    meaning(error)
  assert info.value.code == code


@pytest.mark.parametrize(
  'error',
  [
    wrapped(DAMAGED),
    FileNotFoundError(errno.ENOENT, 'no'),
    IsADirectoryError(errno.EISDIR, 'no'),
    KeyError('a'),
    ValueError('not JSON'),
  ],
)
def test_damage_is_damage(error):
  with pytest.raises(reading.DamagedError):
    meaning(error)


def test_no_memory_is_no_damage():
  with pytest.raises(MemoryError):
    meaning(MemoryError())


@pytest.fixture(scope='module')
def failing(tmp_path_factory):
  """Starts commands whose reads can be made to fail in the C library."""
  compiler = shutil.which('cc')
  if compiler is None:
    pytest.skip('there is no compiler')
  library = tmp_path_factory.mktemp('c') / 'failing_reads.so'
  subprocess.run(
    [compiler, '-shared', '-fPIC', '-o', library, SOURCE, '-ldl'], check=True
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('LD_PRELOAD', str(library))
    with fork_server.Server() as server:
      yield server


@pytest.fixture(scope='module')
def trained(failing, tmp_path_factory):
  """A run of 4 steps, and what it has after 5."""
  short, long = (tmp_path_factory.mktemp(x) for x in ('short', 'long'))
  for workdir, steps in ((short, 4), (long, 5)):
    child = failing.fake(workdir, f'--config.train.steps={steps}')
    assert child.wait() == errors.OK, child.text()
  return short, run_contents.arrays(long, 5)


def fault(part, number, count=None):
  env = {'FAULT_PATH': part, 'FAULT_ERRNO': str(number)}
  return env if count is None else {**env, 'FAULT_COUNT': str(count)}


@pytest.mark.rounds
def test_reads_that_fail_end_the_command(failing, trained, tmp_path):
  short, want = trained
  numbers = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
  rounds = [(part, numbers[n % 3]) for n, part in enumerate(PARTS)]
  for n, (part, number) in enumerate(rounds):
    workdir = tmp_path / str(n)
    shutil.copytree(short, workdir)
    before = run_contents.names(workdir)
    steps = '--config.train.steps=5'
    child = failing.fake(workdir, steps, env=fault(part, number))
    assert child.wait(60) == errors.RESTART, f'{part}: {child.text()}'
    text = child.text()
    assert 'Traceback' not in text, text
    assert os.strerror(number) in text.splitlines()[-1], text
    assert text.splitlines()[-1].startswith('error: cannot read ')
    assert run_contents.names(workdir) == before
    child = failing.fake(workdir, steps)
    assert child.wait() == errors.OK, child.text()
    assert run_contents.arrays(workdir, 5) == want
    shutil.rmtree(workdir)
  sys.stdout.write(
    f'{len(rounds)} of {len(rounds)} reads that fail: nothing renamed\n'
  )


@pytest.mark.rounds
def test_a_read_that_fails_once_is_repeated(failing, trained, tmp_path):
  short, want = trained
  for n, part in enumerate(PARTS):
    workdir = tmp_path / str(n)
    shutil.copytree(short, workdir)
    env = fault(part, errno.EIO, count=1)
    child = failing.fake(workdir, '--config.train.steps=5', env=env)
    assert child.wait(60) == errors.OK, f'{part}: {child.text()}'
    assert 'trying again' in child.text(), f'{part}: {child.text()}'
    assert checkpoints.steps(workdir) == [5, 4, 3]
    assert run_contents.arrays(workdir, 5) == want
    shutil.rmtree(workdir)
  sys.stdout.write(
    f'{len(PARTS)} of {len(PARTS)} reads that fail once: bit-equal\n'
  )
