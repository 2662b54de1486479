"""Sampling that is killed, repeated or cannot write, by the command."""

import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.commands import sample
from pyramid_jax.runs import loading
from tests.helpers import configs
from tests.helpers import killed_samples
from tests.helpers import painter
from tests.helpers import processes


def tree(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.fixture
def asked(monkeypatch):
  painter.install(monkeypatch)
  return {'prompt': 'a red circle', 'count': 5, 'seed': 1}


def test_samples_that_are_killed_have_the_same_files(
  tmp_path, monkeypatch, caplog
):
  """A process is killed with -9 at some moment; the command is repeated."""
  painter.install(monkeypatch)
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  for folder in (whole, stopped):
    folder.mkdir()
  command = killed_samples.config(), killed_samples.OPTIONS
  sample.run(command[0], whole, command[1])
  process = subprocess.Popen(
    [sys.executable, killed_samples.__file__, str(stopped)],
    env={**os.environ, 'PYTHONPATH': str(processes.ROOT)},
  )
  folder = stopped / 'samples'
  try:
    deadline = time.monotonic() + 100
    while len(list(folder.glob('parts/0*.npz'))) < 1:
      assert process.poll() is None
      assert time.monotonic() < deadline
      time.sleep(0.02)
    # Another process is refused, and changes nothing.
    with pytest.raises(errors.UserError, match='in use by process') as info:
      sample.run(command[0], stopped, command[1])
    assert info.value.code == errors.OUTPUT
    time.sleep(np.random.default_rng().uniform(0, 0.3))
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert (folder / '000001.png').is_file()
  assert not (folder / 'samples.npz').exists()
  with caplog.at_level(logging.INFO, logger='absl'):
    sample.run(command[0], stopped, command[1])
  assert tree(folder) == tree(whole / 'samples')
  assert 'of 23 images are there' in caplog.text


def test_what_decides_images_is_recorded(tmp_path, asked, caplog):
  config = configs.of_task('text')
  made = []

  def run(**changes):
    made.clear()
    sample.run(changes.pop('config', config), tmp_path, asked | changes)
    return len(made)

  class Watched(pipeline.Pipeline):
    def sample(self, *args):
      made.append(args)
      return super().sample(*args)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pipeline.pipeline, 'Pipeline', Watched)
    assert run() == 2
    assert run() == 0
    smaller = config.copy_and_resolve_references()
    with smaller.unlocked():
      smaller.sample.batch_size, smaller.data.workers = 2, 3
    assert run(config=smaller) == 0
    assert run(seed=2, config=smaller) == 3
    assert 'request.seed: 1 -> 2' in caplog.text
    assert run(seed=2, prompt='a blue circle')
    painter.install(patch, weights={'w': jnp.ones(3)})
    assert run(seed=2, prompt='a blue circle')
    assert 'models.0.weights' in caplog.text


def test_the_content_of_a_given_file_counts(tmp_path, asked):
  config = configs.of_task('text')
  drawing = tmp_path / 'a.svg'
  stroke = '<svg viewBox="0 0 9 9"><path d="M1 1 L{} 8" stroke="red"/></svg>'
  first = []
  for end in (8, 2):
    drawing.write_text(stroke.format(end))
    sample.run(config, tmp_path, asked | {'sketch': str(drawing)})
    with np.load(tmp_path / 'samples' / 'samples.npz') as file:
      first.append(file['sketch'][0])
  assert (first[0] != first[1]).any()


def test_a_folder_that_cannot_be_written_is_known_before_weights(
  tmp_path, asked, monkeypatch
):
  monkeypatch.setattr(loading, 'load', lambda *args: pytest.fail('loaded'))
  (tmp_path / 'samples').write_text('in the way')
  with pytest.raises(errors.UserError, match='cannot write') as info:
    sample.run(configs.of_task('text'), tmp_path, asked)
  assert info.value.code == errors.OUTPUT
  assert (tmp_path / 'samples').read_text() == 'in the way'


def test_samples_that_are_not_finite_replace_nothing(
  tmp_path, asked, monkeypatch
):
  config = configs.of_task('text')
  sample.run(config, tmp_path, asked)
  before = tree(tmp_path / 'samples')

  def broken(*args, **kwargs):
    images, scales = painter.paint(*args, **kwargs)
    return images * jnp.nan, scales

  painter.install(monkeypatch, generate=broken)
  with pytest.raises(pipeline.NotFinite):
    sample.run(config, tmp_path, asked | {'seed': 2})
  assert tree(tmp_path / 'samples') == before


def test_a_signal_ends_it_with_one_line(tmp_path, asked, monkeypatch):
  monkeypatch.setattr(
    loading, 'load', lambda *args: os.kill(os.getpid(), signal.SIGTERM)
  )
  with pytest.raises(errors.UserError, match='stopped by SIGTERM') as info:
    sample.run(configs.of_task('text'), pathlib.Path(tmp_path), asked)
  assert info.value.code == errors.RESTART
  assert not (tmp_path / 'samples').exists()
