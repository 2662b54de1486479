"""Commands that are stopped by signals, or hang; what they must leave."""

import json
import os
import pathlib
import random
import signal
import sys
import threading
import time

from pyramid_jax import errors
from pyramid_jax.evaluation import scoring
from pyramid_jax.runs import array_parts
from pyramid_jax.runs import checkpoints
from tests.helpers import fake_run
from tests.helpers import painted_run


SEED = int(os.environ.get('PYRAMID_JAX_FAULT_SEED', '16'))


def check_stopped(child, folder):
  """Asserts that a command was stopped and left nothing behind."""
  code, text = child.wait(), child.text()
  assert code == errors.RESTART, text
  assert text.count('error: ') == 1, text
  assert 'error: stopped by SIG' in text
  assert 'Traceback' not in text
  assert 'Exception ignored' not in text
  check_left(folder, text)


def check_left(folder, text=''):
  """Asserts that neither locks, temporaries nor halves are in a folder."""
  names = [path.name for path in folder.rglob('*')]
  left = [n for n in names if n.startswith('lock') or '.bad-' in n]
  left += [n for n in names if n.endswith('.tmp')]
  assert not left, text
  for path in folder.rglob('metrics.jsonl'):
    lines = path.read_text()
    assert not lines or lines.endswith('\n')
    [json.loads(line) for line in lines.splitlines()]


def tree(folder):
  """Returns the bytes of all files below a folder."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def catches(child):
  """Whether a process handles SIGTERM, by the kernel's word."""
  if child.poll() is not None:
    return True
  status = pathlib.Path(f'/proc/{child.pid}/status').read_text()
  (mask,) = (x for x in status.splitlines() if x.startswith('SigCgt:'))
  return bool(int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def rounds(count, start, folder, number=signal.SIGTERM, again=4):
  """Signals commands at random moments of their life.

  Args:
    count: of commands that are to be stopped by it.
    start: () -> child, of a command that begins anew or goes on.
    folder: what the command writes into.
    number: of the signal.
    again: of signals, at most, before the command is left to end.

  Yields:
    once for each command that ended after at least one signal stopped it.
  """
  draw, stopped, life = random.Random(SEED), 0, 2.0
  while stopped < count:
    here = 0
    for _ in range(again):
      child = start()
      child.until(lambda child=child: catches(child))
      began, delay = time.monotonic(), draw.uniform(0, life)
      time.sleep(delay)
      child.send(number)
      if child.wait() == errors.OK:
        life = time.monotonic() - began
        break
      check_stopped(child, folder)
      here += 1
    else:
      child = start()
      assert child.wait() == errors.OK, child.text()
    check_left(folder)
    stopped += here
    if here:
      yield here
  name = signal.Signals(number).name
  sys.stdout.write(f'{stopped} of {stopped} {name}\n')


def hang():
  """Puts fakes in place, of which one never returns.

  The variable HANGS says which, and after how many calls: 'read:5'.
  """
  what, _, after = os.environ['HANGS'].partition(':')
  if what == 'samples':
    painted_run.install()
    _patch(array_parts.ArrayParts, 'add', int(after))
    return
  fake_run.install()
  if what == 'read':
    _patch(fake_run.Reader, 'batch', int(after))
  elif what == 'save':
    _patch(checkpoints.Checkpoints, 'wait', int(after))
  elif what == 'scores':
    hanging = lambda pipe: threading.Event().wait()
    scoring.during_training = lambda *arguments: hanging
  elif what == 'thread':
    threading.Thread(target=threading.Event().wait).start()


def _patch(owner, name, after):
  """Makes a method wait for ever, once it was called so often."""
  function, calls = getattr(owner, name), []

  def hanging(*arguments, **named):
    calls.append(name)
    if len(calls) > after:
      threading.Event().wait()
    return function(*arguments, **named)

  setattr(owner, name, hanging)


def as_nohup():
  """Leaves to a run of fakes what a shell does for `nohup ... &`."""
  fake_run.install()
  for number in (signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
  os.close(0)
  sys.stdin = None
