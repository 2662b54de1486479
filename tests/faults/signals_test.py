"""Signals at any moment: 75, one line, nothing left, the same result after."""

import json
import shutil
import signal
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from tests.helpers import fork_server
from tests.helpers import full_disk
from tests.helpers import painted_run
from tests.helpers import stopped


PAINTED = {'before': 'tests.helpers.painted_run:install'}
BOTH = pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
# how many are sent
COUNTS = {signal.SIGTERM: 25, signal.SIGINT: 8}


def hanging(what):
  """Returns the options of a command in which something hangs."""
  return {'before': 'tests.helpers.stopped:hang', 'env': {'HANGS': what}}


def manifest(folder, step):
  """Returns the hashes of every array of a checkpoint."""
  path = checkpoints.directory(folder) / str(step) / 'meta' / 'metadata'
  return json.loads(path.read_text())['tree']


def losses(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [(x['step'], x['loss']) for x in map(json.loads, lines)]


def exports(folder):
  return {p.name: p.read_bytes() for p in folder.rglob('*.safetensors')}


def sampling(server, folder, *flags, **options):
  folder.mkdir(exist_ok=True)
  return server.start(
    '--mode=sample',
    f'--config={painted_run.__file__}',
    f'--workdir={folder}',
    '--prompt=a red circle',
    '--count=23',
    *flags,
    **(options or PAINTED),
  )


@pytest.mark.rounds
@pytest.mark.parametrize('variant', ['', ':two'])
@BOTH
def test_signals_while_a_run_resumes(server, tmp_path, variant, number):
  folder, begun = tmp_path / 'run', tmp_path / 'begun'
  command = f'--config={fork_server.FAKE}{variant}', f'--workdir={folder}'
  every = [f'--config.train.{x}_every=1' for x in ('eval', 'sample')]
  flags = '--config.train.steps=5', '--config.train.keep=9', *every
  start = lambda: server.start(*command, *flags)
  child = server.start(*command, *flags, '--config.train.steps=2')
  assert child.wait() == errors.OK, child.text()
  shutil.copytree(folder, begun)
  assert start().wait() == errors.OK
  of_run = lambda: (manifest(folder, 5), losses(folder), exports(folder))
  want = of_run()
  assert want[-1]
  for _ in stopped.rounds(COUNTS[number], start, folder, number):
    assert of_run() == want
    shutil.rmtree(folder)
    shutil.copytree(begun, folder)


@pytest.mark.rounds
@BOTH
def test_signals_while_it_samples(server, tmp_path, number):
  whole, folder = tmp_path / 'whole', tmp_path / 'run'
  assert sampling(server, whole).wait() == errors.OK
  start = lambda: sampling(server, folder)
  for _ in stopped.rounds(COUNTS[number], start, folder, number):
    assert stopped.tree(folder) == stopped.tree(whole)
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
  for _ in stopped.rounds(10, start, folder):
    assert table.read_bytes() == want
    shutil.rmtree(folder)


@pytest.mark.parametrize(
  ('what', 'says', 'limit'),
  [('read:5', 'the data reader', 'step'), ('save:0', 'a save', 'hook')],
)
def test_what_hangs_is_ended_with_all_stacks(
  server, tmp_path, what, says, limit
):
  folder = tmp_path / 'run'
  limit = f'--config.train.{limit}_limit_secs=2'
  child = server.fake(folder, limit, **hanging(what))
  assert child.wait(30) == errors.RESTART, child.text()
  log = (folder / 'logs' / 'process_0.log').read_text()
  for text in (child.text(), log):
    assert f'error: nothing from {says} for ' in text
    assert 'Thread MainThread:' in text
    assert 'in _patch.<locals>.hanging' in text
  assert child.text().count('error: ') == 1
  stopped.check_left(folder)
  again = server.fake(folder)
  assert again.wait() == errors.OK, again.text()


def test_a_batch_of_samples_that_hangs(server, tmp_path):
  flag = '--config.sample.batch_limit_secs=4'
  child = sampling(server, tmp_path, flag, **hanging('samples:2'))
  assert child.wait(30) == errors.RESTART, child.text()
  assert 'error: nothing from the device for 4.' in child.text()
  stopped.check_left(tmp_path)
  again = sampling(server, tmp_path)
  assert again.wait() == errors.OK
  assert 'of 23 images are there' in again.text()


@BOTH
def test_a_signal_ends_a_run_whose_reader_hangs(server, tmp_path, number):
  folder = tmp_path / 'run'
  child = server.fake(folder, **hanging('read:5'))
  child.until(lambda: checkpoints.steps(folder))
  time.sleep(0.2)
  child.send(number)
  assert child.wait(8) == errors.RESTART, child.text()
  stopped.check_stopped(child, folder)
  assert 'which is saved' in child.text()


def test_a_signal_gives_up_scores_and_saves_the_step(server, tmp_path):
  flag = '--config.train.eval_every=2'
  child = server.fake(tmp_path, flag, **hanging('scores'))
  child.until(lambda: checkpoints.steps(tmp_path))
  time.sleep(0.5)
  child.send(signal.SIGTERM)
  stopped.check_stopped(child, tmp_path)
  assert 'after step 2, which is saved' in child.text()
  assert checkpoints.steps(tmp_path)[0] == 2


def test_a_second_interrupt_leaves_at_once(server, tmp_path):
  folder = tmp_path / 'run'
  child = server.fake(folder, **hanging('save:0'))
  child.until(lambda: (folder / 'metrics.jsonl').exists())
  for _ in range(2):
    child.send(signal.SIGINT)
    time.sleep(0.3)
  assert child.wait(5) == errors.RESTART, child.text()
  stopped.check_stopped(child, folder)


def test_grace_ends_a_save_that_does_not(server, tmp_path):
  folder = tmp_path / 'run'
  flag = '--config.train.grace_secs=2'
  child = server.fake(folder, flag, **hanging('save:0'))
  child.until(lambda: (folder / 'metrics.jsonl').exists())
  time.sleep(0.5)
  child.send(signal.SIGTERM)
  time.sleep(1)
  assert child.poll() is None
  assert child.wait(8) == errors.RESTART, child.text()
  stopped.check_stopped(child, folder)


def test_a_process_that_was_stopped_has_not_hung(server, tmp_path):
  limit = '--config.train.step_limit_secs=2'
  child = server.fake(tmp_path, limit, '--config.network.pause=0.3')
  child.until(lambda: len(checkpoints.steps(tmp_path)) > 1)
  child.send(signal.SIGSTOP)
  time.sleep(3)
  child.send(signal.SIGCONT)
  assert child.wait() == errors.OK, child.text()


def test_where_signals_are_ignored_and_stdin_is_closed(server, tmp_path):
  slow = '--config.network.pause=0.5'
  child = server.fake(tmp_path, slow, before='tests.helpers.stopped:as_nohup')
  child.until(lambda: checkpoints.steps(tmp_path))
  child.send(signal.SIGHUP)
  time.sleep(0.3)
  assert child.poll() is None
  child.send(signal.SIGINT)
  stopped.check_stopped(child, tmp_path)


def test_a_covered_folder_ends_the_process(server, tmp_path):
  child = server.fake(tmp_path, '--config.network.pause=0.3')
  child.until(lambda: checkpoints.steps(tmp_path))
  with full_disk.mounted(tmp_path / 'checkpoints', '64m', 'ro'):
    assert child.wait(30) == errors.OUTPUT, child.text()
  assert 'Traceback' not in child.text()


def test_a_thread_that_waits_keeps_no_process(server, tmp_path):
  child = server.fake(tmp_path, **hanging('thread:0'))
  child.until(lambda: checkpoints.steps(tmp_path)[:1] == [4])
  assert child.wait(15) == errors.OK, child.text()
