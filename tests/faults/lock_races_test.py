"""Processes that race for one lock: never two owners, never a dead end."""

import collections
import os
import signal
import subprocess
import sys
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import lock
from tests.helpers import racers


SEED = os.environ.get('PYRAMID_JAX_FAULT_SEED', '0')
COUNT = 4


def leave_dead(folder):
  """Leaves the lock of a process that was killed."""
  code = (
    'import os, sys; from pyramid_jax.runs import lock; '
    'lock.Lock(sys.argv[1]).__enter__(); os.kill(os.getpid(), 9)'
  )
  process = subprocess.run([sys.executable, '-c', code, folder], check=False)
  assert process.returncode == -signal.SIGKILL
  assert [path.name for path in folder.iterdir()] == [lock.NAME]


def race(path, rounds, is_dead, *before):
  """Returns how many rounds had how many winners."""
  won = collections.Counter()
  with racers.Racers(COUNT, *before) as processes:
    for number in range(rounds):
      folder = path / str(number)
      folder.mkdir()
      if is_dead:
        leave_dead(folder)
      processes.start(folder, 'keep', f'{SEED}.{number}')
      answers = processes.hear()
      won[answers.count('won')] += 1
      lost = [text.split()[:2] for text in answers if text != 'won']
      assert lost == [['lost', str(errors.OUTPUT)]] * len(lost), answers
      processes.tell()
      assert processes.hear() == ['back'] * COUNT
      assert list(folder.iterdir()) == []
  return won


@pytest.mark.parametrize('is_dead', [False, True])
@pytest.mark.parametrize('before', [('dawdle',), ('dawdle', 'without_flock')])
def test_one_of_many_wins(tmp_path, is_dead, before):
  assert race(tmp_path, 2, is_dead, *before) == {1: 2}


@pytest.mark.rounds
@pytest.mark.parametrize('is_dead', [False, True])
@pytest.mark.parametrize('before', [(), ('dawdle',), ('without_flock',)])
def test_rounds_of_races(tmp_path, is_dead, before):
  won = race(tmp_path, 50, is_dead, *before)
  racers.say(f'{won[1]} of 50 races {before} had one owner')
  assert won == {1: 50}


def work(folder, seed, *before):
  """Returns the exit codes of processes that take and return one lock."""
  with racers.Racers(COUNT, *before) as processes:
    processes.start(folder, 'work', seed)
    return processes.codes()


def test_many_take_and_return_it(tmp_path):
  assert work(tmp_path, SEED) == [0] * COUNT
  assert list(tmp_path.iterdir()) == []


@pytest.mark.rounds
@pytest.mark.parametrize('before', [('die',), ('die', 'dawdle')])
def test_rounds_of_kills(tmp_path, before):
  """Killed at any moment of taking, keeping and returning it."""
  kills = 0
  for number in range(50):
    folder = tmp_path / str(number)
    folder.mkdir()
    codes = work(folder, f'{SEED}.{number}', *before)
    assert set(codes) <= {0, -signal.SIGKILL}, codes
    kills += codes.count(-signal.SIGKILL)
    start = time.monotonic()
    with lock.Lock(folder) as held:
      held.check(now=True)
    assert time.monotonic() - start < 1
    left = [path for path in folder.iterdir() if path.stat().st_size]
    assert left == []
  racers.say(f'{kills} kills in 50 rounds {before}: never two owners')
  assert kills > 50
