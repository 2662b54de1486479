"""Evaluations that are killed and go on."""

import dataclasses
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import evaluate
from pyramid_jax.evaluation import unfinished
from pyramid_jax.files import stores
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import code_uses
from pyramid_jax.metrics import states
from pyramid_jax.runs import lock_owner
from tests.helpers import fake_store
from tests.helpers import killed
from tests.helpers import painter
from tests.helpers import processes


@dataclasses.dataclass(frozen=True)
class Brightness:
  """The mean grey of images, and of their real ones."""

  def of_images(self, batch):
    grey = batch.images.mean((1, 2, 3))
    return {'grey': bootstrap.mean_pairs(grey)}

  def of_real(self, batch):
    return {'ceiling|grey': bootstrap.mean_pairs(batch.real.mean((1, 2, 3)))}

  def needs_others(self, examples):
    return False

  def rows(self, images, real):
    ceilings = bootstrap.ratios(states.part(states.CEILING, real))
    return states.rows(bootstrap.ratios(images), ceilings, {})


class Images:
  """Batches of noise; real images for the first half of them."""

  def __init__(self, steps=6, size=3):
    self.steps, self.size = steps, size
    self.read = []

  def batches(self, first):
    for step in range(first, self.steps):
      self.read.append(step)
      rng = np.random.default_rng(step)
      images = rng.integers(0, 256, (self.size, 4, 4, 3)).astype(np.uint8)
      yield states.Batch(
        places=step * self.size + np.arange(self.size),
        images=images,
        real=images[::-1] if step < self.steps // 2 else None,
        codes=[rng.integers(0, 7, (self.size, 2, 2))],
      )


START = {
  'images': states.PerImage(measure=Brightness()),
  'codes': code_uses.CodeUses.of_sizes([7]),
}


@pytest.fixture(autouse=True)
def eager(monkeypatch):
  """Saves after every batch."""
  monkeypatch.setattr(unfinished, 'SHARE', float('inf'))


def table(folder, source=None, request=None):
  store = unfinished.Store(folder, request or {'count': 18})
  source = source or Images()
  return unfinished.rows_of(unfinished.accumulate(START, source, store))


def files(folder):
  return sorted(path.name for path in folder.rglob('*.npz'))


class Killed(BaseException):
  """What a killed process does not catch."""


def stop_at(monkeypatch, number):
  """Ends the process when it gives a file its name for the n-th time."""
  replace, count = os.replace, iter(range(1000))

  def limited(source, target):
    if next(count) == number:
      raise Killed
    replace(source, target)

  monkeypatch.setattr(os, 'replace', limited)


@pytest.mark.parametrize('number', [0, 1, 2, 3, 4, 7, 8, 12])
def test_the_table_does_not_depend_on_when_it_was_killed(
  tmp_path, monkeypatch, number
):
  """Files are request.json, then rows and totals of each batch."""
  want = unfinished.rows_of(unfinished.accumulate(START, Images()))
  with pytest.MonkeyPatch.context() as patch:
    stop_at(patch, number)
    with pytest.raises(Killed):
      table(tmp_path)
  source = Images()
  assert table(tmp_path, source) == want
  done = max(0, (number - 1) // 2)  # batches whose totals are there
  assert source.read == list(range(done, 6))
  again = Images()
  assert table(tmp_path, again) == want
  assert again.read == []


@pytest.mark.parametrize('number', [0, 1, 2, 3, 4, 9])
def test_the_same_in_a_store(monkeypatch, tmp_path, number):
  monkeypatch.setenv('PYRAMID_JAX_CACHE', str(tmp_path))
  want = unfinished.rows_of(unfinished.accumulate(START, Images()))
  count = iter(range(1000))

  def kill(what, name):
    if what == 'write' and next(count) == number:
      raise Killed

  with fake_store.installed() as store:
    store.fault = kill
    folder = stores.path('gs://bucket/run/samples')
    with pytest.raises(Killed):
      table(folder)
    store.fault = lambda what, name: None
    source = Images()
    assert table(folder, source) == want
    assert source.read == list(range(max(0, (number - 1) // 2), 6))
    unfinished.Store(folder, {'count': 18}).remove()
    assert not store.objects


def test_old_totals_are_dropped_and_rows_are_kept(tmp_path):
  table(tmp_path)
  rows = [f'rows_{i:08d}_{i + 1:08d}.npz' for i in range(6)]
  assert files(tmp_path) == [*rows, 'totals_00000006.npz']
  with np.load(next(tmp_path.rglob('rows_00000004*'))) as part:
    assert part['images/images/grey'].shape == (3, 2)
    assert not [name for name in part.files if 'real' in name]


def test_saving_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
  monkeypatch.setattr(unfinished, 'SHARE', 0.02)
  clock = itertools.count()  # each look at it takes a second
  own = types.SimpleNamespace(monotonic=lambda: next(clock))
  monkeypatch.setattr(unfinished, 'time', own)
  table(tmp_path, Images(steps=120))
  saved = [int(x[14:22]) for x in files(tmp_path) if x.startswith('rows')]
  # A save takes a second, so that 50 others pass before the next.
  assert saved == [1, 51, 101, 120]


def test_another_request_is_not_mixed(tmp_path):
  with pytest.MonkeyPatch.context() as patch:
    stop_at(patch, 6)
    with pytest.raises(Killed):
      table(tmp_path)
  source = Images()
  table(tmp_path, source, {'count': 18, 'weights': 'others'})
  assert source.read == list(range(6))
  requests = [json.loads(x.read_text()) for x in tmp_path.rglob('*.json')]
  assert [r.get('weights') for r in requests].count('others') == 1
  source = Images()
  table(tmp_path, source)
  assert source.read[0] == 2


@pytest.mark.parametrize('name', ['totals', 'rows_00000001'])
def test_damage_is_as_good_as_nothing(tmp_path, name, caplog):
  want = table(tmp_path)
  (path,) = tmp_path.rglob(f'{name}*')
  path.write_bytes(path.read_bytes()[:-30])
  source = Images()
  assert table(tmp_path, source) == want
  assert source.read == list(range(6))
  assert 'starting anew: ' in caplog.text
  assert str(path) in caplog.text


def test_a_finished_evaluation_leaves_nothing(tmp_path):
  store = unfinished.Store(tmp_path, {})
  other = unfinished.Store(tmp_path, {'count': 1})
  unfinished.accumulate(START, Images(), store)
  store.remove()
  assert files(tmp_path) == []
  assert (tmp_path / unfinished.FOLDER).is_dir()
  other.remove()
  assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_known_at_once(tmp_path):
  (tmp_path / unfinished.FOLDER).write_text('in the way')
  with pytest.raises(errors.UserError) as info:
    unfinished.Store(tmp_path, {})
  assert info.value.code == errors.OUTPUT


def test_two_processes_do_not_work_at_one_table(tmp_path, monkeypatch):
  # The owner does not end: it is this process.
  monkeypatch.setattr(lock_owner, 'STALE_SECS', 0.1)
  store = unfinished.Store(tmp_path, {})
  same, other = (
    unfinished.Store(tmp_path, {}),
    unfinished.Store(tmp_path, {'x': 2}),
  )
  with store.held():
    with pytest.raises(errors.UserError, match='is in use by process'):
      same.held().__enter__()
    with other.held():
      pass
    with same.held(takeover=True):
      pass


def test_without_scores_nothing_is_read(tmp_path):
  source = Images()
  store = unfinished.Store(tmp_path, {})
  assert unfinished.accumulate({}, source, store) == {}
  assert source.read == []


def test_an_evaluation_that_is_killed_gives_the_same_table(
  tmp_path, monkeypatch, caplog
):
  """A process is killed with -9 at some moment; the command is repeated."""
  painter.install(monkeypatch)
  config = killed.config()
  saved = tmp_path / 'samples'
  evaluate.run(config, tmp_path, {})
  want = (saved / 'scores.json').read_bytes()
  (saved / 'scores.json').unlink()
  process = subprocess.Popen(
    [sys.executable, killed.__file__, str(tmp_path)],
    env={**os.environ, 'PYTHONPATH': str(processes.ROOT)},
  )
  try:
    deadline = time.monotonic() + 100
    while len(list(saved.rglob('totals_*.npz'))) < 1:
      assert process.poll() is None
      assert time.monotonic() < deadline
      time.sleep(0.02)
    time.sleep(np.random.default_rng().uniform(0, 1.2))
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert not (saved / 'scores.json').exists()
  with caplog.at_level(logging.INFO, logger='absl'):
    evaluate.run(config, tmp_path, {})
  assert (saved / 'scores.json').read_bytes() == want
  assert 'going on after' in caplog.text
  assert not (saved / unfinished.FOLDER).exists()
