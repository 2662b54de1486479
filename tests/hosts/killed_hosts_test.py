"""Processes of a training run that are killed, stopped or hang."""

import os
import random
import signal
import sys
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from tests.helpers import forked_hosts
from tests.helpers import run_contents


SEED = int(os.environ.get('PYRAMID_JAX_FAULT_SEED', '4'))
STEPS = 16
FLAGS = (
  f'--config.train.steps={STEPS}',
  '--config.train.checkpoint_every=2',
  '--config.network.width=256',
  '--config.network.pause=0.02',
)
ABORTED = (-signal.SIGABRT, 128 + signal.SIGABRT)


def newest(workdir):
  return max(checkpoints.steps(workdir), default=0)


def kill_rounds(server, folder, count, kills, draw):
  """Kills a random process again and again, and then lets the run end."""
  workdir, done = folder / 'run', 0
  while done < kills:
    had = newest(workdir)
    with forked_hosts.fake(server, count, workdir, *FLAGS) as hosts:
      goal = had + draw.randrange(1, 5)
      hosts.until(lambda goal=goal: newest(workdir) >= min(goal, STEPS - 2))
      time.sleep(draw.uniform(0, 0.1))
      hosts.children[draw.randrange(count)].send(signal.SIGKILL)
    codes = hosts.codes()  # the others were killed as the context ended
    done += -signal.SIGKILL in codes
    if codes == [errors.OK] * count:
      break
  forked_hosts.ended(server, count, workdir, *FLAGS)
  return done


def check_rounds(server, folder, count, kills):
  forked_hosts.ended(server, count, folder / 'whole', *FLAGS)
  done = kill_rounds(server, folder, count, kills, random.Random(SEED))
  whole, workdir = folder / 'whole', folder / 'run'
  arrays = run_contents.arrays
  assert arrays(workdir, STEPS) == arrays(whole, STEPS)
  assert run_contents.losses(workdir) == run_contents.losses(whole)
  assert run_contents.names(workdir) == run_contents.names(whole)
  return done


def test_three_kills_leave_what_an_uninterrupted_run_has(server, tmp_path):
  assert check_rounds(server, tmp_path, 2, 3) >= 2


@pytest.mark.hosts
def test_twenty_kills_leave_what_an_uninterrupted_run_has(server, tmp_path):
  done = rounds = 0
  while done < 20:
    done += check_rounds(server, tmp_path / str(rounds), 2, 20 - done)
    rounds += 1
  sys.stdout.write(f'{done} kills in {rounds} runs\n')


@pytest.mark.parametrize('which', [0, 2])
@pytest.mark.hosts
def test_the_others_end_when_one_is_killed(server, tmp_path, which):
  flags = (*FLAGS, '--config.network.pause=0.1')
  with forked_hosts.fake(server, 4, tmp_path, *flags) as hosts:
    hosts.until(lambda: newest(tmp_path) >= 4)
    hosts.children[which].send(signal.SIGKILL)
    codes = hosts.codes(60)
  assert codes.pop(which) == -signal.SIGKILL
  assert set(codes) <= {errors.RESTART, *ABORTED}, hosts.text()


@pytest.mark.parametrize('which', [0, 3])
@pytest.mark.hosts
def test_a_process_that_is_stopped_is_noticed_by_the_others(
  server, tmp_path, which
):
  flags = (
    *FLAGS,
    '--config.network.pause=0.1',
    '--config.train.step_limit_secs=5',
    '--config.train.hook_limit_secs=5',
  )
  with forked_hosts.fake(server, 4, tmp_path, *flags) as hosts:
    hosts.until(lambda: newest(tmp_path) >= 4)
    os.kill(hosts.children[which].pid, signal.SIGSTOP)
    others = [x for n, x in enumerate(hosts.children) if n != which]
    for child in others:
      child.wait(60)
    codes = {child.poll() for child in others}
    assert codes <= {errors.RESTART, *ABORTED}, hosts.text()
    assert any('error: nothing from ' in x.text() for x in others)
    assert any('Thread MainThread:' in x.text() for x in others)
  logs = list((tmp_path / 'logs').glob('*.log'))
  assert any('Thread MainThread:' in log.read_text() for log in logs)
