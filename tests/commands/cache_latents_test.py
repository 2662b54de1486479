"""Latents encoded beforehand: written, read, refused."""

import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import cache_latents
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.readers import latent_cache
from pyramid_jax.distributed import initial
from pyramid_jax.interop import parts
from pyramid_jax.runs import hashes
from pyramid_jax.systems import system as system_lib
from tests.helpers import cluster


CONFIG = f'{pathlib.Path(__file__).parents[2]}/configs/ldm_shapes.py'
COUNT = 10


def load(task='class'):
  return config_lib.load(f'{CONFIG}:{task},debug')


@pytest.fixture(scope='module')
def first_stage(tmp_path_factory):
  """A weight file of a first stage, and its tree."""
  part = systems.create(load()).pretrained_parts()['first_stage']
  tree = initial.evaluate(part.init, jax.random.key(0))
  file = tmp_path_factory.mktemp('first') / 'params.safetensors'
  parts.write(part.family, file, tree)
  return file, tree


def arguments(file, output, *rest, task='class'):
  return [
    f'--config={CONFIG}:{task},debug',
    f'--first_stage={file}',
    f'--output={output}',
    f'--count={COUNT}',
    '--shard_size=4',
    '--batch_size=4',
    *rest,
  ]


def write(*given, **named):
  return cache_latents.main(arguments(*given, **named))


@pytest.fixture(scope='module')
def cache(first_stage, tmp_path_factory):
  folder = tmp_path_factory.mktemp('cache') / 'latents'
  assert write(first_stage[0], folder, '--flips') == 0
  return folder


@pytest.mark.slow
def test_several_processes_share_the_shards(first_stage, tmp_path):
  folders = {number: tmp_path / str(number) for number in (1, 2)}
  for number, folder in folders.items():
    ended = cluster.run(
      number,
      *arguments(first_stage[0], folder, '--flips'),
      module='pyramid_jax.commands.cache_latents',
    )
    assert [x.code for x in ended] == [0] * number, cluster.report(ended)
  assert [x.text.count('10 latents in') for x in ended] == [1, 0]
  names = sorted(p.name for p in folders[1].iterdir())
  assert sorted(p.name for p in folders[2].iterdir()) == names
  for name in names:
    assert (folders[2] / name).read_bytes() == (folders[1] / name).read_bytes()


def cached_config(folder, task='class', **fields):
  config = load(task)
  config_lib.override(
    config, {'data.name': 'latents', 'data.root': str(folder), **fields}
  )
  return config


def test_files_of_a_cache(cache):
  names = sorted(p.name for p in cache.iterdir())
  assert names == [
    'manifest.json',
    *(f'train-0000{i}.records' for i in range(3)),
  ]
  manifest = json.loads((cache / 'manifest.json').read_text())
  assert manifest['data']['name'] == 'shapes'
  assert manifest['count'] == COUNT
  assert manifest['layout']['latent_mean_0'] == ['float16', [8, 8, 4]]
  assert 'image' not in manifest['layout']
  assert manifest['source']['source']['count'] > 0
  sizes = [(cache / name).stat().st_size for name in names[1:]]
  assert sizes[0] == sizes[1] == 2 * sizes[2]  # 4, 4 and 2 images


def test_examples_are_those_of_the_images(cache, first_stage):
  reader = data.create(cached_config(cache), 'train')
  assert len(reader) == COUNT
  indices = np.array([9, 3, 4])
  draws = np.arange(3, dtype=np.uint64)
  got = reader.finish(reader.batch(indices, draws))

  source = data.create(load(), 'train')
  # Which crop an image has does not depend on `draws`: `shapes` has no crops.
  want = source.finish(source.batch(indices, draws))
  np.testing.assert_array_equal(got['class'], want['class'])
  model = systems.create(load()).space.first_stage
  flipped = latent_cache.hashing.below(2, draws, 300) == 1
  assert 0 < flipped.sum() < 3
  image = np.asarray(want['image'])
  image = np.where(flipped[:, None, None, None], image[:, :, ::-1], image)
  mean, logvar = model.apply(
    {'params': first_stage[1]}, image, method='posterior'
  )
  np.testing.assert_allclose(got['latent_mean_0'], mean, atol=2e-3)
  np.testing.assert_allclose(
    got['latent_std_0'], np.exp(0.5 * np.asarray(logvar)), rtol=2e-3
  )


def test_a_system_draws_from_what_is_cached():
  system = systems.create(load())
  rng = np.random.default_rng(0)
  batch = {
    'latent_mean_0': rng.normal(size=(2, 8, 8, 4)).astype(np.float16),
    'latent_std_0': np.full((2, 8, 8, 4), 0.5, np.float16),
  }
  key = jax.random.key(3)
  normal = functools.partial(jax.random.normal, key)
  (z,) = system.space.batch_latents({}, batch, normal)
  noise = jax.random.normal(key, (2, 8, 8, 4))
  want = batch['latent_mean_0'].astype(np.float32) + 0.5 * noise
  np.testing.assert_allclose(z, want, rtol=1e-6)
  del batch['latent_std_0']
  (z,) = system.space.batch_latents({}, batch, normal)
  np.testing.assert_array_equal(z, batch['latent_mean_0'].astype(np.float32))


def test_other_splits_come_from_the_source(cache):
  reader = data.create(cached_config(cache), 'val')
  assert type(reader) is type(data.create(load(), 'val'))
  images = data.uncached(cached_config(cache))
  assert images.data.name == load().data.name
  assert data.uncached(images) is images


def test_another_autoencoder_is_refused(cache, first_stage):
  reader = data.create(cached_config(cache), 'train')
  digest = hashes.digest(first_stage[1])
  manifests.check_makers(reader, {'first_stage': digest})
  other = jax.tree.map(lambda x: x + 1, first_stage[1])
  with pytest.raises(errors.UserError, match=f'with the hash {digest}, that'):
    manifests.check_makers(reader, {'first_stage': hashes.digest(other)})
  manifests.check_makers(data.create(load(), 'val'), {})


def test_a_damaged_record_is_refused(cache, tmp_path):
  folder = shutil.copytree(cache, tmp_path / 'copy')
  shard = folder / 'train-00001.records'
  content = bytearray(shard.read_bytes())
  content[len(content) // 2] ^= 1  # in image 2 of 4
  shard.write_bytes(content)
  reader = data.create(cached_config(folder), 'train')
  draws = np.zeros(1, np.uint64)
  reader.batch(np.array([0]), draws)
  reader.batch(np.array([5]), draws)
  words = r'train-00001\.records has a wrong CRC-32 in its record 4: damaged'
  with pytest.raises(errors.UserError, match=words):
    reader.batch(np.full(8, 6), np.arange(8, dtype=np.uint64))


def test_caches_that_do_not_fit_are_refused(cache, tmp_path):
  config = cached_config(cache, **{'data.level': '1'})
  with pytest.raises(errors.UserError, match=r'config\.data\.level is 1, the'):
    data.create(config, 'train')
  config = cached_config(cache, **{'data.maps': 'edges'})
  with pytest.raises(errors.UserError, match=r"data\.maps is \('edges',\), th"):
    data.create(config, 'train')
  config = cached_config(cache, **{'data.crop': 'random'})
  with pytest.raises(errors.UserError, match=r"data\.crop is 'random', the c"):
    data.create(config, 'train')
  folder = shutil.copytree(cache, tmp_path / 'copy')
  (folder / 'train-00001.records').write_bytes(b'half')
  with pytest.raises(errors.UserError, match='00001.records has 4 bytes, must'):
    data.create(cached_config(folder), 'train')
  (folder / 'train-00001.records').unlink()
  with pytest.raises(errors.UserError, match='lacks 1 of its 3 shards.*00001'):
    data.create(cached_config(folder), 'train')
  manifest = json.loads((folder / 'manifest.json').read_text())
  text = json.dumps({**manifest, 'format': 1})
  (folder / 'manifest.json').write_text(text)
  with pytest.raises(errors.UserError, match='format 1, needed 2: make .*anew'):
    data.create(cached_config(folder), 'train')
  with pytest.raises(FileNotFoundError, match=r'manifest\.json \(latents'):
    data.create(cached_config(tmp_path), 'train')


def test_writing_goes_on_where_it_stopped(cache, first_stage, tmp_path):
  folder = shutil.copytree(cache, tmp_path / 'copy')
  shards = [folder / f'train-0000{i}.records' for i in range(3)]
  kept = shards[0].stat().st_mtime_ns
  shards[1].write_bytes(b'half')
  content = bytearray(shards[2].read_bytes())
  content[-1] ^= 1
  shards[2].write_bytes(content)
  assert write(first_stage[0], folder, '--flips') == 0
  assert shards[0].stat().st_mtime_ns == kept
  for shard in shards:
    assert shard.read_bytes() == (cache / shard.name).read_bytes()


def test_what_cannot_be_cached(cache, first_stage, tmp_path, capsys):
  file = first_stage[0]
  assert write(file, tmp_path / 'a', task='inpaint') == errors.USAGE
  assert 'condition needs the image' in capsys.readouterr().err
  assert write(file, tmp_path / 'a', '--flips', task='layout') == errors.USAGE
  assert '--flips is for the tasks none, class' in capsys.readouterr().err
  maps = ('--flips', '--config.data.maps=edges')
  assert write(file, tmp_path / 'a', *maps) == errors.USAGE
  assert '--flips does not mirror maps' in capsys.readouterr().err
  assert write('absent', tmp_path / 'a') == errors.MISSING
  assert 'absent (config.first_stage.checkpoint' in capsys.readouterr().err
  assert write(file, cache) == errors.OUTPUT  # without --flips
  assert 'another cache: its flips is True, not F' in capsys.readouterr().err


def test_losses_take_cached_latents(cache):
  config = cached_config(cache)
  system = systems.create(config)
  reader = data.create(config, 'train')
  batch = reader.finish(reader.batch(np.arange(2), np.zeros(2, np.uint64)))
  key = jax.random.key(0)

  def loss():
    params, extra = system.init(key)
    weights = system_lib.Weights(params, {}, extra)
    return system.losses(weights, key, 1, batch)[0]['generator'][0]

  assert jax.eval_shape(loss).shape == ()
