"""Signals at any moment: 75, one line, nothing left, the same result after."""

import json
import os
import pathlib
import random
import shutil
import signal
import sys
import threading
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from tests.helpers import fake_run
from tests.helpers import fork_server
from tests.helpers import painted_run


SEED = int(os.environ.get('PYRAMID_JAX_FAULT_SEED', '16'))
PAINTED = {'before': 'tests.helpers.painted_run:install'}


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
  assert not left, text
  assert not [n for n in names if n.endswith('.tmp')]
  for path in folder.rglob('metrics.jsonl'):
    lines = path.read_text()
    assert not lines or lines.endswith('\n')
    [json.loads(line) for line in lines.splitlines()]


def manifest(folder, step):
  """Returns the hashes of every array of a checkpoint."""
  path = checkpoints.directory(folder) / str(step) / 'meta' / 'metadata'
  return json.loads(path.read_text())['tree']


def losses(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [(x['step'], x['loss']) for x in map(json.loads, lines)]


def tree(folder):
  return {
    path.relative_to(folder): path.read_bytes()
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


@pytest.mark.rounds
@pytest.mark.parametrize('variant', ['', ':two'])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signals_while_a_run_resumes(server, tmp_path, variant, number):
  folder, begun = tmp_path / 'run', tmp_path / 'begun'
  command = f'--config={fork_server.FAKE}{variant}', f'--workdir={folder}'
  flags = '--config.train.steps=5', '--config.train.keep=9'
  start = lambda: server.start(*command, *flags)
  child = server.start(*command, *flags, '--config.train.steps=2')
  assert child.wait() == errors.OK, child.text()
  shutil.copytree(folder, begun)
  assert start().wait() == errors.OK
  want = manifest(folder, 5), losses(folder)
  for _ in rounds(25, start, folder, number):
    assert (manifest(folder, 5), losses(folder)) == want
    shutil.rmtree(folder)
    shutil.copytree(begun, folder)


def sampling(server, folder):
  folder.mkdir(exist_ok=True)
  return server.start(
    '--mode=sample',
    f'--config={painted_run.__file__}',
    f'--workdir={folder}',
    '--prompt=a red circle',
    '--count=23',
    **PAINTED,
  )


@pytest.mark.rounds
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signals_while_it_samples(server, tmp_path, number):
  whole, folder = tmp_path / 'whole', tmp_path / 'run'
  assert sampling(server, whole).wait() == errors.OK
  for _ in rounds(25, lambda: sampling(server, folder), folder, number):
    assert tree(folder) == tree(whole)
    shutil.rmtree(folder)


@pytest.mark.rounds
def test_signals_while_it_evaluates(server, tmp_path):
  folder = tmp_path / 'run'
  table = folder / 'samples' / 'scores.json'

  def start():
    folder.mkdir(exist_ok=True)
    return server.start(
      '--mode=evaluate',
      f'--config={painted_run.__file__}',
      f'--workdir={folder}',
      **PAINTED,
    )

  assert start().wait() == errors.OK
  want = table.read_bytes()
  shutil.rmtree(folder)
  for _ in rounds(10, start, folder):
    assert table.read_bytes() == want
    shutil.rmtree(folder)


HANGS = {'before': 'tests.faults.signals_test:hang'}


def hang():
  """Puts the fakes in place; what the environment names never returns."""
  fake_run.install()
  what, _, after = os.environ['HANGS'].partition(':')
  if what == 'read':
    patch(fake_run.Reader, 'batch', int(after))
  elif what == 'save':
    patch(checkpoints.Checkpoints, 'wait', int(after))


def patch(owner, name, after):
  """Makes a method wait for ever, once it was called so often."""
  function, calls = getattr(owner, name), []

  def hanging(*arguments, **named):
    calls.append(name)
    if len(calls) > after:
      threading.Event().wait()
    return function(*arguments, **named)

  setattr(owner, name, hanging)


@pytest.mark.parametrize(
  ('what', 'says', 'limit'),
  [('read:5', 'the data reader', 'step'), ('save:0', 'a save', 'hook')],
)
def test_what_hangs_is_ended_with_all_stacks(
  server, tmp_path, what, says, limit
):
  folder = tmp_path / 'run'
  limit = f'--config.train.{limit}_limit_secs=2'
  child = server.fake(folder, limit, env={'HANGS': what}, **HANGS)
  assert child.wait(30) == errors.RESTART, child.text()
  log = (folder / 'logs' / 'process_0.log').read_text()
  for text in (child.text(), log):
    assert f'error: nothing from {says} for ' in text
    assert 'Thread MainThread:' in text
    assert 'in patch.<locals>.hanging' in text
  assert child.text().count('error: ') == 1
  check_left(folder)
  again = server.fake(folder)
  assert again.wait() == errors.OK, again.text()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_whose_reader_hangs(server, tmp_path, number):
  folder = tmp_path / 'run'
  child = server.fake(folder, env={'HANGS': 'read:5'}, **HANGS)
  child.until(lambda: '1/4' in child.text() or checkpoints.steps(folder))
  time.sleep(0.2)
  child.send(number)
  assert child.wait(5) == errors.RESTART, child.text()
  check_stopped(child, folder)
  assert 'which is saved' in child.text()
