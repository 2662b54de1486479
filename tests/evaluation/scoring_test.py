"""Scores of a model on the examples of a split."""

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import pipeline
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import scoring
from pyramid_jax.evaluation import unfinished
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import aligned
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


def evaluation_of(config, split='test', length=None, **options):
  """Returns an evaluation on a split that has so many images."""
  reader = Counted(data.create(config, split), length)
  mesh = mesh_lib.create(config.mesh)
  outputs = options.pop('outputs', system_lib.SAMPLES)
  system = painter.make(outputs=outputs, codebooks=(5,))
  pipe = pipeline.Pipeline(system, None, mesh, config)
  return scoring.Evaluation(pipe, config, reader, **options)


def test_conditions_of_a_small_split_repeat_with_other_noise(config):
  seen, numbers = [], []

  def make(batch, number):
    seen.append(np.asarray(batch['class'])[: len(number)])
    numbers.append(number)
    noise = np.random.default_rng(number[0])
    return noise.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8), []

  evaluation = evaluation_of(config, length=3, count=7)
  rows = evaluation(make)
  classes = np.concatenate(seen)
  np.testing.assert_array_equal(classes[:7], np.resize(classes[:3], 7))
  assert np.concatenate(numbers).tolist() == list(range(8))
  (row,) = [row for row in rows if row.name == 'class_acc']
  # Real images are there once each.
  assert (row.score.n, row.ceiling.n, row.floor.n) == (7, 3, 3)
  assert evaluation.about == (
    '7 images (whose 3 conditions repeat in turn, with other noise)'
  )
  assert evaluation_of(config, length=7, count=7).about == '7 images'


def test_a_first_stage_reconstructs_each_image_once():
  config = config_lib.base('autoencoder')
  config.data.name = 'shapes'
  config.data.image_size, config.data.level = 32, 1
  config.evaluate.batch_size = 4
  assert 'project' not in config.sample
  evaluation = evaluation_of(
    config, length=5, count=9, outputs=system_lib.RECONSTRUCTIONS
  )

  def make(batch, numbers):
    images = np.asarray(127.5 * (batch['image'] + 1)).round().astype(np.uint8)
    return images, [np.tile(np.arange(5), (4, 1))]

  scores = {row.name: row.score for row in evaluation(make)}
  assert scores['psnr'].value == 100
  assert scores['layout_recall'].value > 0.9
  assert {scores[name].n for name in ('psnr', 'ssim', 'layout_recall')} == {5}
  # Of five images, and not of those that fill the second batch.
  assert scores['perplexity_0'].n == 5 * 5
  assert evaluation.about == 'all 5 images (of 9 wanted)'


@pytest.mark.parametrize('task', ['text', 'map'])
def test_the_floor_is_that_of_conditions_at_other_places(task):
  """Others are read again batch by batch, in the order of all at once."""
  config = configs.of_task(task).copy_and_resolve_references()
  with config.unlocked():
    config.data.maps = ('edges',)
    config.evaluate.batch_size = 4
  evaluation = evaluation_of(config, count=10)
  noise = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3))
  images = noise.astype(np.uint8)
  rows = evaluation(lambda batch, numbers: (images[numbers], []))
  examples = [evaluation.examples.at(step) for step in range(3)]
  stacked = {
    name: np.concatenate([x.rows[name] for x in examples])[:10]
    for name in examples[0].rows
  }
  real = np.concatenate([x.real for x in examples])[:10]
  want = aligned.rows(task, images[:10], stacked, real, seed=config.data.seed)
  assert rows == want
  assert all(row.floor for row in rows if row.name != 'shape_fd')


def test_shuffled_sketches_have_the_same_floor():
  """What is shuffled for a floor is not what was shuffled before."""
  floors, scores = [], []
  for is_shuffled in (False, True):
    config = configs.of_task('text').copy_and_resolve_references()
    with config.unlocked():
      config.data.maps = ('edges',)
      config.evaluate.batch_size = 5
      config.sketch.shuffled_condition = is_shuffled
    evaluation = evaluation_of(config, count=10)
    real = lambda batch, numbers: (
      np.asarray(127.5 * (batch['image'] + 1)).round().astype(np.uint8),
      [],
    )
    rows = {row.name: row for row in evaluation(real)}
    floors.append(rows['edge_f1'].floor)
    scores.append(rows['edge_f1'].score.value)
  assert floors[0] == floors[1]
  assert scores[0] > 0.9 > 0.5 > scores[1]
