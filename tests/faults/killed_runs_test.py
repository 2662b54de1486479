"""Runs that are killed at any moment and started again."""

import functools
import os
import random
import shutil
import signal
import sys
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import step_folders
from tests.helpers import run_contents


SEED = int(os.environ.get('PYRAMID_JAX_FAULT_SEED', '3'))
STEPS = 40
FLAGS = (f'--config.train.steps={STEPS}', '--config.network.width=512')


def ended(server, workdir, *flags):
  child = server.fake(workdir, *flags)
  assert child.wait() == errors.OK, child.text()


def has(workdir, step):
  return max(checkpoints.steps(workdir), default=0) >= step


@pytest.mark.rounds
def test_kills_leave_what_an_uninterrupted_run_has(server, tmp_path):
  rng = random.Random(SEED)
  ended(server, tmp_path / 'whole', *FLAGS)
  want = run_contents.arrays(tmp_path / 'whole', STEPS)
  losses = run_contents.losses(tmp_path / 'whole')
  kills, inside, runs = 0, 0, 0
  while kills < 20:
    workdir, is_done = tmp_path / f'run{runs}', False
    runs += 1
    while not is_done:
      child = server.fake(workdir, *FLAGS)
      had = max(checkpoints.steps(workdir), default=0)
      child.until(functools.partial(has, workdir, had + rng.randrange(1, 15)))
      time.sleep(rng.uniform(0, 0.03))
      child.send(signal.SIGKILL)
      is_done = child.wait() == errors.OK
      kills += child.poll() == -signal.SIGKILL
      names = run_contents.names(workdir)
      inside += any('tmp' in name or 'deleting' in name for name in names)
    assert run_contents.arrays(workdir, STEPS) == want
    assert run_contents.losses(workdir) == losses
    assert run_contents.names(workdir) == ['38', '39', '40']
  sys.stdout.write(
    f'{kills} of {kills} kills, {inside} inside of a save, {runs} runs\n'
  )
  assert inside


def test_a_kill_inside_of_a_save(server, tmp_path):
  ended(server, tmp_path / 'whole')
  workdir = tmp_path / 'run'
  child = server.fake(workdir, '--config.network.width=2048')
  child.until(lambda: list(checkpoints.directory(workdir).glob('2.*tmp')))
  child.send(signal.SIGKILL)
  child.wait()
  ended(server, workdir, '--config.network.width=2048')
  assert run_contents.names(workdir) == ['2', '3', '4']
  assert [step for step, _ in run_contents.losses(workdir)] == [1, 2, 3, 4]


def test_a_kill_after_the_last_save_leaves_no_old_checkpoint(server, tmp_path):
  workdir = tmp_path / 'run'
  ended(server, workdir, *FLAGS)
  folder = step_folders.directory(workdir)
  there = run_contents.names(workdir)
  shutil.copytree(folder / there[0], folder / '2')
  ended(server, workdir, *FLAGS)
  assert run_contents.names(workdir) == there
