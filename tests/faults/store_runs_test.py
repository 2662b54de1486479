"""Whole runs in a store: a server on this machine, and its real clients."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from pyramid_jax import errors
from pyramid_jax.training import loop
from tests.helpers import cluster
from tests.helpers import fake_run
from tests.helpers import object_server
from tests.helpers import processes


pytestmark = object_server.needs_client
WORKDIR = 'gs://bucket/run'
STEPS = 3
LIMIT_SECS = 240


@pytest.fixture(name='served')
def served_fixture(tmp_path):
  """The objects of a server, and the environment of its clients."""
  with object_server.serving() as (objects, variables):
    cache = {'PYRAMID_JAX_CACHE': str(tmp_path / 'cache')}
    yield objects, {**processes.environment(), **variables, **cache}


def command(*arguments):
  return [
    sys.executable,
    fake_run.__file__,
    f'--config={fake_run.__file__}',
    f'--workdir={WORKDIR}',
    f'--config.train.steps={STEPS}',
    *arguments,
  ]


def train(env, *arguments):
  """Trains in a process of its own; returns its code and what it wrote."""
  done = subprocess.run(
    command(*arguments),
    cwd=processes.ROOT,
    env=env,
    capture_output=True,
    text=True,
    timeout=LIMIT_SECS,
    check=False,
  )
  return done.returncode, done.stderr


def content(objects, name):
  return objects.get(f'run/{name}').data


def losses(text):
  rows = [json.loads(line) for line in text.splitlines()]
  return [(row['step'], row['loss']) for row in rows]


@pytest.fixture(name='local')
def local_fixture(tmp_path, monkeypatch, one_device):
  """Makes a run of the same config on a disk."""
  del one_device

  def run(steps=STEPS):
    folder = tmp_path / 'local'
    with monkeypatch.context() as patch:
      fake_run.install(patch.setattr)
      loop.run(fake_run.config(train__steps=steps), folder)
    return folder

  return run


def check(objects, local):
  """Compares a run with one on a disk, bit by bit."""
  file = 'weights.safetensors'
  found = safetensors_numpy.load(content(objects, file))
  want = safetensors_numpy.load_file(local / file)
  assert found.keys() == want.keys()
  for name, array in want.items():
    np.testing.assert_array_equal(found[name], array, strict=True)
  file = 'metrics.jsonl'
  assert losses(content(objects, file)) == losses((local / file).read_text())
  assert not objects.refused
  assert not os.path.exists(os.path.join(processes.ROOT, 'gs:'))


def test_a_run_in_a_store_is_that_on_a_disk(served, local):
  """It ends once, goes on, and is whole whatever ended it."""
  objects, env = served
  code, text = train(env, '--config.train.steps=2')
  assert code == errors.OK, text
  code, text = train(env)
  assert code == errors.OK, text
  assert 'resuming after step 2' in text
  check(objects, local())
  steps = {
    int(m[1])
    for name in objects.names('run/checkpoints/')
    if (m := re.fullmatch(r'run/checkpoints/(\d+)/commit_success.txt', name))
  }
  assert steps == {1, 2, 3}
  assert b'resuming after step 2' in content(objects, 'logs/process_0.log')
  (lock,) = objects.names('run/lock/')
  assert json.loads(objects.get(lock).data)['released']


@pytest.mark.rounds
def test_runs_that_are_killed_end_with_the_same_bits(served, local):
  objects, env = served
  options = '--config.network.pause=0.05', '--config.train.steps=10'
  rng, codes = random.Random(0), []
  while len(codes) < 30 and errors.OK not in codes:
    process = subprocess.Popen(
      command(*options),
      cwd=processes.ROOT,
      env=env,
      stderr=subprocess.PIPE,
      text=True,
    )
    end = time.monotonic() + LIMIT_SECS
    stop = objects.count + rng.randrange(50, 500)  # requests
    while process.poll() is None and objects.count < stop:
      assert time.monotonic() < end
      time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    text = process.communicate()[1]
    codes.append(process.returncode)
    assert codes[-1] in (errors.OK, -signal.SIGKILL), text
  code, text = train(env, *options)
  assert code == errors.OK, text
  assert len(codes) > 3
  check(objects, local(10))


@pytest.mark.rounds
def test_a_damaged_checkpoint_is_marked_and_made_again(served, local):
  objects, env = served
  code, text = train(env, '--config.train.steps=2')
  assert code == errors.OK, text
  name = 'run/checkpoints/2/meta/metadata'
  objects.put(name, objects.get(name).data.replace(b'"mesh"', b'"nets"'), None)
  code, text = train(env)
  assert code == errors.OK, text
  assert 'checkpoints/2 is now 2.bad-hash' in text
  assert 'resuming after step 1' in text
  check(objects, local())
  assert not [x for x in objects.names('run/') if '.bad' in x]


@pytest.mark.rounds
@pytest.mark.parametrize(
  ('status', 'code', 'words'),
  [
    (403, errors.MISSING, r'gs://bucket/run: .*; the credentials are'),
    (404, errors.OUTPUT, r'cannot write gs://nobody/run'),
  ],
)
def test_a_store_without_access_is_one_line(served, status, code, words):
  objects, env = served

  def refuse(method, path):
    if status == 403:
      raise object_server.Failure(status, 'not yours')

  objects.fault = refuse
  place = 'bucket' if status == 403 else 'nobody'
  found, text = train(env, f'--workdir=gs://{place}/run')
  assert found == code, text
  assert re.search(words, text)
  assert 'Traceback' not in text


@pytest.mark.rounds
def test_writes_that_are_forbidden_later_end_the_run(served):
  objects, env = served

  def refuse(method, path):
    is_late = any('checkpoints/1/commit' in x for x in objects.found)
    if method == 'POST' and is_late:
      raise object_server.Failure(403, 'not yours any more')

  objects.fault = refuse
  code, text = train(env, '--config.train.on_save_error=stop')
  assert code == errors.OUTPUT, text
  assert 'Traceback' not in text
  objects.fault = lambda method, path: None
  code, text = train(env)
  assert code == errors.OK, text
  assert 'resuming after step 1' in text


@pytest.mark.hosts
def test_two_processes_write_one_run(served, local):
  objects, env = served
  ended = cluster.run(
    2,
    f'--config={fake_run.__file__}',
    f'--workdir={WORKDIR}',
    f'--config.train.steps={STEPS}',
    env={k: x for k, x in env.items() if k not in ('XLA_FLAGS', 'PYTHONPATH')},
    module='tests.helpers.fake_run',
  )
  assert [x.code for x in ended] == [0, 0], cluster.report(ended)
  file = 'metrics.jsonl'
  found = losses(content(objects, file))
  want = losses((local() / file).read_text())
  assert [step for step, _ in found] == [step for step, _ in want]
  assert [x for _, x in found] == pytest.approx([x for _, x in want], rel=1e-6)
  assert objects.names('run/logs/') == [
    'run/logs/process_0.log',
    'run/logs/process_1.log',
  ]
