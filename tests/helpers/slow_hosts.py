"""Fakes of `fake_run` for several processes, of which one is slow or fails.

The variable SLOW says which: 'step' (the compilation of the train step),
'preview' (that of the previews), 'scores' (an evaluation of many batches) or
'save' (a save, which takes a moment). The variable FAILS is the number of a
process and of its save that cannot be written: '1:2'.
"""

import errno
import os
import pathlib
import sys
import time

import jax
import numpy as np

from pyramid_jax.distributed import processes
from pyramid_jax.evaluation import scoring
from pyramid_jax.evaluation import unfinished
from pyramid_jax.metrics import states
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import same_start
from pyramid_jax.runs import saving
from tests.helpers import fake_run


FOR_EVER_SECS = 1000.0
LATE_SECS = 2.0  # longer than another process takes to end with an error
BEGUN = 'it has begun'


def install() -> None:
  """Puts the fakes in place, in the process of a command."""
  fake_run.install()
  what = os.environ['SLOW']
  if what == 'scores':
    scoring.during_training = lambda *arguments: _scores
  elif what == 'save':
    _slow(checkpoints.Checkpoints, 'save', 3.0, after=1)
  elif what == 'step':
    _slow(jax.stages.Lowered, 'compile', FOR_EVER_SECS, after=0)
  elif what == 'preview':
    _slow(jax.stages.Lowered, 'compile', FOR_EVER_SECS, after=1)


def fail() -> None:
  """Puts the fakes in place, and the failure, which process 0 notices late."""
  from orbax.checkpoint._src.checkpointers import async_checkpointer

  fake_run.install()
  index, which = map(int, os.environ['FAILS'].split(':'))
  name, calls = '_background_wait_for_commit_futures', []
  function = getattr(async_checkpointer, name)

  def failing(*arguments, **named):
    calls.append(name)
    if len(calls) == which and processes.process_part()[0] == index:
      raise OSError(errno.ENOSPC, 'No space left on device')
    return function(*arguments, **named)

  def noticing():
    if not processes.process_part()[0]:
      time.sleep(LATE_SECS)
    join()

  join, saving._join_writers = saving._join_writers, noticing
  setattr(async_checkpointer, name, failing)


def blind() -> None:
  """Puts the fakes in place, and hides the lock from process 1."""
  fake_run.install()
  function = pathlib.Path.exists

  def exists(path, **named):
    is_hidden = path.name == 'lock' and processes.process_part()[0]
    return not is_hidden and function(path, **named)

  pathlib.Path.exists = exists
  same_start._SEEN_SECS = 0.2


def _slow(owner: type, name: str, secs: float, after: int) -> None:
  """Makes a method wait, once it was called so often."""
  function, calls = getattr(owner, name), []

  def waiting(*arguments, **named):
    calls.append(name)
    if len(calls) > after:
      _say(BEGUN)
      time.sleep(secs)
    return function(*arguments, **named)

  setattr(owner, name, waiting)


def _say(text: str) -> None:
  sys.stdout.write(f'{text}\n')
  sys.stdout.flush()


class _Endless:
  """Batches that take their time, and many of them."""

  size, steps = 1, 100_000

  def batches(self, first):
    for step in range(first, self.steps):
      _say(BEGUN)
      time.sleep(0.05)
      yield states.Batch(
        places=np.array([step]), images=np.zeros((1, 4, 4, 3), np.uint8)
      )


class _Counted:
  """A state that counts."""

  kept, totals = {}, {}

  def update(self, batch):
    return self


def _scores(pipe):
  unfinished.accumulate({'images': _Counted()}, _Endless())
  return {}
