"""A run of small images and one that enlarges them, at the smallest size."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import sample
from pyramid_jax.systems import system as system_lib
from tests.helpers import cluster
from tests.helpers import written_run


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
COUNT = 2


def write(folder, variants, size):
  config = config_lib.load(f'{CONFIGS}/ladm_shapes.py:{variants},debug')
  config.data.image_size = size
  config.sample.steps = 1
  system = systems.create(config)
  extra = {'process': system.fingerprint()}
  written_run.write(folder, config, extra=extra)
  return config


@pytest.mark.turns(4, group='whole runs')
@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_small_pictures_are_made_and_enlarged(tmp_path):
  first, second = tmp_path / 'first', tmp_path / 'second'
  config = write(first, 'none', 16)
  write(second, 'superres2', 32)
  asked = {'count': COUNT, 'upsampler': str(second), 'seed': 3}
  sample.run(config, first, asked)
  folder = first / 'samples'
  with np.load(folder / 'small' / 'samples.npz') as saved:
    small = saved['arr_0']
  with np.load(folder / 'samples.npz') as saved:
    large, known = saved['arr_0'], saved['lr_image']
  assert small.shape == (COUNT, 16, 16, 3)
  assert large.shape == (COUNT, 32, 32, 3)
  np.testing.assert_array_equal(known, small)
  assert (folder / 'grid.png').is_file()

  alone = {'count': COUNT, 'seed': 3}
  sample.run(config, first, alone)
  with np.load(folder / 'samples.npz') as saved:
    np.testing.assert_array_equal(saved['arr_0'], small)

  with pytest.raises(errors.UserError, match='upsampler=.*first: its cond'):
    sample.run(config, first, asked | {'upsampler': str(first)})


@pytest.mark.turns(4, group='whole runs')
@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_a_painted_part_is_composed_before_it_is_enlarged(tmp_path):
  first, second = tmp_path / 'first', tmp_path / 'second'
  config = write(first, 'none', 16)
  write(second, 'superres2', 32)
  Image.new('RGB', (16, 16), (200, 10, 10)).save(tmp_path / 'image.png')
  mask = np.zeros((16, 16), np.uint8)
  mask[:, 8:] = 255
  Image.fromarray(mask).save(tmp_path / 'mask.png')
  asked = {
    'count': COUNT,
    'upsampler': str(second),
    'image': str(tmp_path / 'image.png'),
    'mask': str(tmp_path / 'mask.png'),
  }
  sample.run(config, first, asked)
  with np.load(first / 'samples' / 'small' / 'samples.npz') as saved:
    small, hole = saved['arr_0'], saved['inpaint_mask']
  assert hole.shape == (COUNT, 16, 16)
  assert (small[:, :, :8] == (200, 10, 10)).all()
  with np.load(first / 'samples' / 'samples.npz') as saved:
    np.testing.assert_array_equal(saved['lr_image'], small)
    assert saved['arr_0'].shape == (COUNT, 32, 32, 3)
    assert 'inpaint_mask' not in saved.files


def test_an_upsampler_has_noise_of_its_own(tmp_path, monkeypatch):
  first, second = tmp_path / 'first', tmp_path / 'second'
  config = write(first, 'none', 16)
  write(second, 'superres2', 32)

  count = jax.device_count()

  def blank(system, weights, keys, batch, *others):
    """Gives the keys of the noise in the place of the scales."""
    del weights, batch, others
    side = system.image_size
    return jnp.zeros((count, side, side, 3)), [jax.random.key_data(keys)]

  monkeypatch.setattr(system_lib, 'generate', blank)
  sample.run(config, first, {'count': count, 'upsampler': str(second)})
  folder = first / 'samples'
  with (
    np.load(folder / 'small' / 'latents.npz') as small,
    np.load(folder / 'latents.npz') as large,
  ):
    keys = np.concatenate([small['latent_0'], large['latent_0']])
  assert len(np.unique(keys, axis=0)) == 2 * count


def test_an_upsampler_of_another_size_is_refused_first(tmp_path):
  first, second = tmp_path / 'first', tmp_path / 'second'
  config = write(first, 'none', 16)
  write(second, 'superres4', 32)
  with pytest.raises(errors.UserError, match='whose image_size is 64'):
    sample.run(config, first, {'count': COUNT, 'upsampler': str(second)})
  assert not (first / 'samples').exists()


@pytest.mark.hosts
@pytest.mark.usefixtures('one_device')
def test_two_processes_make_the_same_cascade(tmp_path):
  first, second = tmp_path / 'first', tmp_path / 'second'
  config = write(first, 'none', 16)
  write(second, 'superres2', 32)
  latents = first / 'samples' / 'small' / 'latents.npz'
  cases = {'upsampler': second}, {'coarse_latent': tmp_path / 'latents.npz'}
  for case in cases:
    asked = {'count': 3, 'seed': 3, **{n: str(x) for n, x in case.items()}}
    sample.run(config, first, asked)
    want = dict(np.load(first / 'samples' / 'samples.npz'))
    if 'upsampler' in case:  # each starts from what one process made
      coarsest = np.load(latents)['latent_0']
      np.savez(tmp_path / 'latents.npz', latent_0=coarsest)
    shutil.rmtree(first / 'samples')
    flags = [f'--{name}={value}' for name, value in asked.items()]
    command = '--mode=sample', f'--workdir={first}', *flags
    ended = cluster.run(2, *command)
    assert [x.code for x in ended] == [0, 0], cluster.report(ended)
    got = dict(np.load(first / 'samples' / 'samples.npz'))
    assert got.keys() == want.keys()
    for name, x in want.items():
      if x.dtype == np.uint8:
        x, got[name] = x.astype(int), got[name].astype(int)
        np.testing.assert_allclose(got[name], x, atol=1, err_msg=name)
      else:
        np.testing.assert_array_equal(got[name], x, err_msg=name)
