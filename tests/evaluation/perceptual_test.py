"""LPIPS of an evaluation, by a small network in the place of VGG16."""

import json

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import evaluate
from pyramid_jax.evaluation import perceptual
from pyramid_jax.interop import parts
from pyramid_jax.metrics import states
from pyramid_jax.networks import lpips
from tests.helpers import configs
from tests.helpers import painter


@pytest.fixture
def weights(monkeypatch, tmp_path):
  slices = tuple((4, indices) for _, indices in lpips.SLICES)
  monkeypatch.setattr(lpips, 'SLICES', slices)
  image = np.zeros((1, 32, 32, 3), np.float32)
  network = lpips.LPIPS()
  params = jax.jit(network.init)(jax.random.key(0), image, image)['params']
  path = tmp_path / 'lpips.safetensors'
  parts.write('lpips', path, params)
  scaled = lambda x: np.float32(x) / 127.5 - 1
  run = jax.jit(lambda a, b: network.apply({'params': params}, a, b))
  return path, lambda a, b: np.asarray(run(scaled(a), scaled(b)))


def make_config(path):
  values = {
    'evaluate.batch_size': 4,
    'evaluate.count': 6,
    'evaluate.lpips': path,
    'condition.task': 'superres',
    'data.image_size': 32,
    'data.level': 0,
  }
  return configs.change(config_lib.base('ldm'), values).lock()


def test_batches_of_any_size(weights):
  path, want = weights
  images, targets = np.random.default_rng(0).integers(
    0, 256, (2, 6, 32, 32, 3), np.uint8
  )
  measure = perceptual.find(make_config(path))
  start = states.PerImage(measure=measure)
  parts_ = [
    start.update(
      states.Batch(places=rows, images=images[rows], real=targets[rows])
    )
    for rows in np.split(np.arange(6), [1])
  ]
  (row,) = parts_[1].merge(parts_[0]).finish()
  assert row.name == 'lpips'
  assert row.score.n == 6
  np.testing.assert_allclose(
    row.score.value, want(images, targets).mean(), rtol=1e-4
  )
  same = states.Batch(places=np.arange(6), images=images, real=images)
  assert start.update(same).finish()[0].score.value == 0


def test_images_without_targets_do_not_count(weights):
  path, want = weights
  images, targets = np.random.default_rng(0).integers(
    0, 256, (2, 6, 32, 32, 3), np.uint8
  )
  start = states.PerImage(measure=perceptual.find(make_config(path)))
  batch = states.Batch(places=np.arange(6), images=images, real=targets[:2])
  (row,) = start.update(batch).finish()
  assert row.score.n == 2
  value = want(images[:2], targets[:2]).mean()
  np.testing.assert_allclose(row.score.value, value, rtol=1e-4)


def test_holes_of_a_size_have_a_row_of_their_own(weights):
  path, want = weights
  images, targets = np.random.default_rng(0).integers(
    0, 256, (2, 4, 32, 32, 3), np.uint8
  )
  holes = np.zeros((4, 32, 32))
  for hole, rows in zip(holes, (13, 16, 15, 5), strict=True):
    hole[:rows] = 1  # 41, 50, 47 and 16 % of the image
  start = states.PerImage(measure=perceptual.find(make_config(path)))

  def scores(some):
    examples = {'image': targets[some], 'inpaint_mask': holes[some]}
    batch = states.Batch(
      places=np.arange(len(some)), images=images[some], examples=examples
    )
    return {row.name: row.score for row in start.update(batch).finish()}

  found = scores([0, 1, 2, 3])
  values = want(images, targets)
  got = found['lpips_holes_40_50']
  np.testing.assert_allclose(got.value, values[[0, 2]].mean(), rtol=1e-4)
  assert (got.n, found['lpips'].n) == (2, 4)
  assert scores([1, 3]).keys() == {'lpips'}


def test_a_run(weights, monkeypatch, tmp_path):
  path, _ = weights
  paint = lambda system, weights, keys, batch, *_: (batch['image'], [])
  painter.install(monkeypatch, generate=paint)
  evaluate.run(make_config(path), tmp_path, {})
  table = json.loads((tmp_path / 'samples' / 'scores.json').read_text())
  assert table['scores']['lpips']['value'] < 1e-6
  assert 'LPIPS by lpips.safetensors (sha256 ' in table['about']


def test_missing_weights_are_named(tmp_path, caplog):
  caplog.set_level('INFO')
  assert perceptual.find(make_config('')) is None
  assert 'LPIPS is unavailable: put torchvision' in caplog.text
  with pytest.raises(errors.UserError, match='no.pth is no file') as error:
    perceptual.find(make_config('no.pth'))
  assert error.value.code == errors.MISSING
