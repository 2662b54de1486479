"""Steps that are not finite, in whole commands."""

import json
import os
import random
import re
import signal
import sys
import time

import jax
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import step_meta
from tests.helpers import fake_run


SEED = int(os.environ.get('PYRAMID_JAX_FAULT_SEED', '0'))
STEPS = 9
BAD = 5  # the step that is poisoned, counting from 1
ROUNDS = 20
# What overflows in the update alone.
OVERFLOW = (
  '--config.optimizer.name=adamw',
  '--config.optimizer.weight_decay=1e6',
  '--config.train.learning_rate=1e38',
)


def flags(**train):
  values = {'steps': STEPS, 'keep': 20, **train}
  return [
    *(f'--config.train.{name}={value}' for name, value in values.items()),
    f'--config.network.poison={BAD - 1}',
  ]


def end(child, code):
  """Returns the one line that a command ended with."""
  assert child.wait() == code, child.text()
  assert 'Traceback' not in child.text()
  (line,) = re.findall('^error: .*', child.text(), re.MULTILINE)
  return line


def check_finite(workdir):
  """Every array of every checkpoint is finite; returns the steps."""
  steps = checkpoints.steps(workdir)
  system = fake_run.System(fake_run.config())
  params, extra = system.init(jax.random.key(0))
  for step in steps:
    for averaged in (True, False):
      tree = checkpoints.load(
        workdir, {'params': params, 'extra': extra}, step, averaged
      )
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))
  return steps


@pytest.mark.parametrize(
  ('every', 'more'),
  [
    (1, []),
    (2, ['--config.train.accumulate=2']),
    (3, ['--config.dtype=bfloat16']),
  ],
)
def test_a_poisoned_batch(server, tmp_path, every, more):
  given = [*flags(checkpoint_every=every), *more]
  for _ in range(2):  # the same command comes to the same step
    line = end(server.fake(tmp_path, *given), errors.DIVERGED)
    assert f'not finite in step {BAD}: loss' in line
  good = check_finite(tmp_path)
  assert good[0] == (BAD - 1) // every * every
  assert f'step {good[0]}' in line
  path = tmp_path / 'diverged' / str(BAD) / 'report.json'
  assert str(path) in line
  rows = json.loads(path.read_text())['batch']['rows']
  wanted = range((BAD - 1) * 8, BAD * 8)
  assert [row['position'] for row in rows] == list(wanted)
  child = server.fake(tmp_path, *given, '--config.train.skip_nonfinite=1')
  assert child.wait() == errors.OK, child.text()
  assert f'step {BAD} is not finite and is skipped' in child.text()
  assert check_finite(tmp_path)[0] == STEPS


@pytest.mark.parametrize('allowed', [0, 2])
def test_an_update_that_overflows(server, tmp_path, allowed):
  more = f'--config.train.skip_nonfinite={allowed}'
  line = end(server.fake(tmp_path, *OVERFLOW, more), errors.DIVERGED)
  assert f'step {allowed + 1}: update' in line
  assert check_finite(tmp_path) == list(range(allowed, 0, -1))


@pytest.mark.rounds
def test_kills_around_steps_that_are_skipped(server, tmp_path):
  """Runs that are killed end as one that is not: the state, bit for bit."""
  draw = random.Random(SEED)
  given = [*flags(skip_nonfinite=1), '--config.network.pause=0.05']
  whole = tmp_path / 'whole'
  assert server.fake(whole, *given).wait() == errors.OK
  tree = lambda workdir: step_meta.read(
    checkpoints.directory(workdir) / str(STEPS)
  )['tree']
  kills = runs = 0
  while kills < ROUNDS:
    runs += 1
    workdir = tmp_path / str(runs)
    for _ in range(4):
      child = server.fake(workdir, *given)
      child.until(lambda workdir=workdir: (workdir / 'config.json').exists())
      time.sleep(draw.uniform(0.0, 0.6))
      kills += child.poll() is None
      child.send(signal.SIGKILL)
      child.wait()
    assert server.fake(workdir, *given).wait() == errors.OK
    assert tree(workdir) == tree(whole)
    check_finite(workdir)
  sys.stdout.write(f'{kills} kills, {runs} of {runs} runs bit-equal\n')
