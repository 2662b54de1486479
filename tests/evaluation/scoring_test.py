"""Scores of a model on the examples of a split."""

import jax
import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import pipeline
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import scoring
from pyramid_jax.evaluation import unfinished
from pyramid_jax.pipeline import settings as settings_lib
from tests.helpers import configs
from tests.helpers import painter


@pytest.fixture
def config():
  config = configs.of_task('class', level=0).unlock()
  config.evaluate.count, config.evaluate.batch_size = 6, 4
  return config.lock()


class Counted:
  """A reader that counts how often `finish` is traced."""

  def __init__(self, reader, length=None):
    self._reader = reader
    self._length = len(reader) if length is None else length
    self.traces = 0

  def __len__(self):
    return self._length

  def __getattr__(self, name):
    return getattr(self._reader, name)

  def finish(self, batch):
    self.traces += 1
    return self._reader.finish(batch)


def test_a_second_evaluation_compiles_nothing(config, monkeypatch):
  seeds = []

  def paint(system, weights, keys, batch, *others):
    seeds.append(keys.shape)
    images, scales = painter.paint(system, weights, keys, batch, *others)
    return images * weights, scales

  painter.install(monkeypatch, generate=paint)
  reader = Counted(data.create(config, 'val'))
  mesh = mesh_lib.create(config.mesh)
  pipe = pipeline.Pipeline(painter.make(), np.float32(0), mesh, config)
  settings = settings_lib.of_config(pipe.system, config)
  score = scoring.during_training(pipe, settings, config, reader)
  first = score(pipe.with_weights(np.float32(1)))
  assert first.keys() >= {'class_acc', 'tv_colour'}
  second = score(pipe.with_weights(np.float32(0.5)))
  assert len(seeds) == reader.traces == 1
  assert first == score(pipe.with_weights(np.float32(1))) != second


@pytest.mark.parametrize(('length', 'wanted'), [(1, 1), (5, 5), (50, 6)])
def test_a_validation_split_gives_what_it_has(
  config, monkeypatch, length, wanted
):
  """With fewer images than a batch, or than there are devices, too."""
  painter.install(monkeypatch)
  reader = Counted(data.create(config, 'val'), length)
  mesh = mesh_lib.create(config.mesh)
  assert jax.device_count() == 8
  pipe = pipeline.Pipeline(painter.make(), None, mesh, config)
  settings = settings_lib.of_config(pipe.system, config)
  rows_of, seen = unfinished.rows_of, []
  monkeypatch.setattr(
    unfinished, 'rows_of', lambda x: seen.extend(rows_of(x)) or rows_of(x)
  )
  scores = scoring.during_training(pipe, settings, config, reader)(pipe)
  assert 0 <= scores['class_acc'] <= 1
  assert {row.score.n for row in seen} == {wanted}
