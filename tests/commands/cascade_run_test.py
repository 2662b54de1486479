"""A run of small pictures and one that enlarges them, at the smallest size."""

import pathlib

import jax
import numpy as np
import pytest
import written_run

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import sample


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
COUNT = 8  # one a device


def write(folder, variants, size):
  config = config_lib.load(f'{CONFIGS}/ladm_shapes.py:{variants},debug')
  config.data.image_size = size
  config.sample.steps = 1
  system = systems.create(config)
  extra = {'process': system.fingerprint()}
  written_run.write(folder, config, extra=extra)
  return config


@pytest.mark.slow
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

  with pytest.raises(errors.UserError, match='--upsampler=.*first: its cond'):
    sample.run(config, first, asked | {'upsampler': str(first)})


def test_an_upsampler_of_another_size_is_refused_first(tmp_path):
  first, second = tmp_path / 'first', tmp_path / 'second'
  config = write(first, 'none', 16)
  write(second, 'superres4', 32)
  with pytest.raises(errors.UserError, match='whose image_size is 64'):
    sample.run(config, first, {'count': COUNT, 'upsampler': str(second)})
  assert not (first / 'samples').exists()
  assert jax.device_count() == COUNT
