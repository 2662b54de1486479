"""Scores of the coarse scales of a pyramid."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax import systems
from pyramid_jax.commands import evaluate
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import merging
from pyramid_jax.evaluation import scales
from pyramid_jax.evaluation import scoring
from pyramid_jax.metrics import states
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import command_line
from tests.helpers import documented_runs


class _Pipe:
  """A first stage of two codebooks."""

  mesh = mesh_lib.create(config_lib.base('autoencoder').mesh)

  class system:
    outputs = system_lib.RECONSTRUCTIONS
    codebooks = (5, 7)


@pytest.fixture
def evaluation():
  config = config_lib.base('autoencoder')
  config.data.name = 'shapes'
  config.data.image_size, config.data.level = 32, 1
  config.evaluate.batch_size = 4
  reader = data.create(config, 'test')
  return scoring.Evaluation(_Pipe, config, reader, count=6)


def _uint8(image):
  return np.asarray(127.5 * (np.asarray(image) + 1)).round().astype(np.uint8)


def _exact(batch, numbers):
  codes = [np.zeros((4, 3), int), np.ones((4, 6), int)]
  return _uint8(batch['image']), codes


def test_scores_of_reconstructions_without_the_fine_scale(evaluation):
  shown = []

  def coarse(batch, numbers):
    real = _uint8(batch['image'])
    grey = real.mean((1, 2, 3), keepdims=True) + np.zeros(real.shape)
    grey = grey.round().astype(np.uint8)
    shown.append((real[:4], grey[:4]))  # without rows that fill the devices
    return [grey]

  line = evaluation.add_scales(coarse, scales.count(_Pipe.system))
  assert line == 'the coarser of 2 scales alone'
  got = {row.name: row.score for row in evaluation(_exact)}
  real, grey = (
    np.concatenate(x)[:6].astype(float) for x in zip(*shown, strict=True)
  )
  error = np.square(real - grey).mean((1, 2, 3))
  want = (10 * np.log10(255**2 / error)).mean()
  np.testing.assert_allclose(got['psnr_scale_0'].value, want, rtol=1e-12)
  assert got['psnr_scale_0'].n == 6
  assert got['psnr'].value == 100
  assert got['layout_recall_scale_0'].value < 0.1 < got['layout_recall'].value
  assert got['perplexity_0'].n == 6 * 3
  assert not any('perplexity' in x and 'scale' in x for x in got)


def test_a_state_of_a_scale_is_merged_and_read_back():
  """As the states of the images themselves are."""

  class Mean(states.Means):
    def of_images(self, batch):
      x = batch.images.mean((1, 2, 3))
      return {'mean': np.stack([x, np.ones_like(x)], 1)}

  start = scales.OfScale(state=states.PerImage(measure=Mean()), scale=1)

  def batch(places):
    images = np.zeros((len(places), 1, 1, 3), np.uint8)
    fine = images + 10 * (1 + np.reshape(places, (-1, 1, 1, 1)))
    return states.Batch(
      places=np.array(places), images=images, coarse=[images, fine]
    )

  a, b = (start.update(batch(x)) for x in ([0, 1], [2]))
  found = {'some': a.merge(b)}
  again = merging.restored(
    {'some': start}, [merging.columns_of(found)], merging.totals_of(found)
  )
  (row,) = again['some'].finish()
  assert (row.name, row.score.value, row.score.n) == ('mean_scale_1', 20, 3)


@pytest.mark.slow
def test_a_pyramid_is_decoded_without_its_fine_scale():
  config = config_lib.load('msvqgan_shapes:debug')
  system = systems.create(config)
  params, extra = jax.jit(system.init)(jax.random.key(0))
  weights = system_lib.Weights(params=params, extra=extra, frozen={})
  mesh = mesh_lib.create(config.mesh)
  pipe = pipeline.Pipeline(system, weights, mesh, config)
  side = config.data.image_size
  image = np.random.default_rng(0).uniform(-1, 1, (8, side, side, 3))
  image = image.astype(np.float32)
  settings = settings_lib.of_config(system, config)
  coarse = scales.maker(pipe, settings)({'image': image}, np.arange(8))
  assert len(coarse) == scales.count(system) - 1 == 1
  apply = jax.jit(system.model.apply, static_argnames='method')
  tree = {'params': params['generator']}
  zs = apply(tree, image, method='encode')
  made = apply(tree, [zs[0], jnp.zeros_like(zs[1])], method='decode')
  assert np.abs(_uint8(np.clip(made, -1, 1)) - 1.0 * coarse[0]).max() <= 1
  whole, _ = pipe.reconstruct({'image': image}, 8)
  assert np.abs(whole - 1.0 * coarse[0]).max() > 1


def test_one_scale_has_no_coarse_one(evaluation):
  class Alone:
    system = type(
      'One', (), {'outputs': system_lib.RECONSTRUCTIONS, 'codebooks': ()}
    )
    config = config_lib.base('autoencoder')

  with pytest.raises(errors.UserError, match='must be False.*has one scale'):
    evaluate._by_scale(evaluation, Alone, None)


def test_saved_samples_have_no_scales(tmp_path):
  config = config_lib.load('frido_shapes:debug').copy_and_resolve_references()
  config.evaluate.per_scale = True
  np.savez(tmp_path / 'some.npz', arr_0=np.zeros((2, 32, 32, 3), np.uint8))
  with pytest.raises(errors.UserError, match='must be False with --samples'):
    evaluate.run(config, tmp_path, {'samples': tmp_path / 'some.npz'})


@pytest.mark.slow
@pytest.mark.turns(2)
@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize(
  ('name', 'coarse'), [('runs/frido_shapes', 1), ('runs/ladm', 2)]
)
def test_previews_of_the_stages_are_scored(name, coarse, tmp_path):
  documented_runs.write(tmp_path, name)
  fields = {'per_scale': True, 'count': 4, 'batch_size': 4}
  flags = [f'--config.evaluate.{x}={value}' for x, value in fields.items()]
  code, text = command_line.call(
    *('--mode=evaluate', f'--workdir={tmp_path / name}', *flags),
    '--config.sample.steps=2',
  )
  assert code == 0, text
  table = json.loads((tmp_path / name / 'samples' / 'scores.json').read_text())
  assert f'the coarser of {coarse + 1} scales alone' in table['about']
  scores = table['scores']
  for scale in range(coarse):
    row = scores[f'layout_recall_scale_{scale}']
    assert row['n'] == scores['layout_recall']['n'] == 4
    assert np.isfinite(row['value'])
  assert f'layout_recall_scale_{coarse}' not in scores
