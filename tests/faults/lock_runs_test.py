"""Two runs in one workdir, and owners that die, stop or lose their lock."""

import errno
import json
import os
import signal
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import lock
from pyramid_jax.runs import lock_owner


SLOW = ('--config.network.pause=0.1', '--config.train.steps=40')


def begun(child, workdir):
  """Waits for the first checkpoint of a run."""
  child.until(lambda: checkpoints.steps(workdir))
  assert child.poll() is None, child.text()
  return child


def owner(workdir):
  return json.loads((workdir / lock.NAME).read_text())['pid']


def test_a_second_run_is_refused_and_a_killed_one_followed_at_once(
  server, tmp_path
):
  run = tmp_path / 'run'
  first = begun(server.fake(run, *SLOW), run)
  second = server.fake(run, *SLOW)
  assert second.wait() == errors.OUTPUT
  assert f'in use by process {first.pid} on' in second.text()
  first.send(signal.SIGKILL)
  first.wait()
  assert owner(run) == first.pid  # what it left blocks nobody
  third = server.fake(run, *SLOW)
  assert third.wait() == errors.OK, third.text()
  assert not (run / lock.NAME).exists()


def test_takeover_of_a_live_run(server, tmp_path):
  run = tmp_path / 'run'
  first = begun(server.fake(run, *SLOW), run)
  second = server.fake(run, '--takeover', *SLOW)
  assert first.wait() == errors.OUTPUT, first.text()
  assert f'was taken over by process {second.pid}' in first.text()
  assert 'Traceback' not in first.text()
  second.until(lambda: 'resuming after step' in second.text())
  assert second.wait() == errors.OK, second.text()
  assert 'Traceback' not in second.text()
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(x)['step'] for x in lines] == list(range(1, 41))


def test_an_owner_that_was_stopped_looks_before_it_goes_on(server, tmp_path):
  run = tmp_path / 'run'
  first = begun(server.fake(run, *SLOW), run)
  first.send(signal.SIGSTOP)
  second = server.fake(
    run,
    '--takeover',
    *SLOW,
    before='tests.faults.lock_runs_test:impatient',
  )
  assert second.wait() == errors.OK, second.text()
  assert f'process {first.pid} has not stopped' in second.text()
  before = {p: p.stat().st_mtime_ns for p in run.rglob('*') if p.is_file()}
  first.send(signal.SIGCONT)
  assert first.wait() == errors.OUTPUT, first.text()
  after = {p: p.stat().st_mtime_ns for p in run.rglob('*') if p.is_file()}
  changed = {p.name for p in before if after.get(p) != before[p]}
  assert all(name.endswith('.log') for name in changed), changed
  assert set(after) == set(before)


def impatient():
  """Waits for no owner that is stopped."""
  from tests.helpers import fake_run

  fake_run.install()
  lock_owner.STALE_SECS = 0.3


def test_a_full_disk_at_the_start_leaves_no_lock(server, tmp_path):
  run = tmp_path / 'run'
  child = server.fake(run, before='tests.faults.lock_runs_test:full')
  assert child.wait() == errors.OUTPUT, child.text()
  assert 'No space left on device' in child.text()
  assert 'Traceback' not in child.text()
  assert list(run.glob(f'{lock.NAME}*')) == []
  again = server.fake(run)
  assert again.wait() == errors.OK, again.text()


def full():
  from tests.helpers import fake_run

  fake_run.install()

  def write(handle, data):
    os.write(handle, data[:7])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  lock._write = write


@pytest.mark.parametrize('jump', [120.0])
def test_a_clock_that_jumps_takes_no_lock(server, tmp_path, jump):
  run = tmp_path / 'run'
  run.mkdir()
  first = begun(server.fake(run, *SLOW), run)
  second = server.fake(
    run,
    *SLOW,
    before='tests.faults.lock_runs_test:jumped',
    env={'CLOCK_JUMP': str(jump)},
  )
  assert second.wait() == errors.OUTPUT, second.text()
  assert 'in use by process' in second.text()
  assert owner(run) == first.pid
  first.send(signal.SIGKILL)


def jumped():
  """Sets this process's clock to another time."""
  from tests.helpers import fake_run

  fake_run.install()
  real, jump = time.time, float(os.environ['CLOCK_JUMP'])
  time.time = lambda: real() + jump
