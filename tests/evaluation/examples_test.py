"""Examples of a split with their images in uint8."""

import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.evaluation import examples
from tests.helpers import configs


def test_maps_of_any_task_come_along():
  config = configs.of_task('class', level=0)
  with config.unlocked():
    config.data.maps = ('mask', 'inpaint_mask')
  rows = examples.of_split(config, 'test', 2)
  assert rows['mask'].max() > 1
  assert rows['inpaint_mask'].shape == (2, 32, 32)
  assert rows['image'].dtype == np.uint8


def test_enlarged_images_are_projected_on_the_small_one():
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
  large = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
  rows = {'lr_image': small}
  np.testing.assert_array_equal(examples.composite(large, rows), large)
  made = examples.composite(large, rows, project=True)
  means = made.reshape(2, 4, 2, 4, 2, 3).astype(float).mean((2, 4))
  error = np.abs(means - small)
  assert np.median(error) <= 0.5
  before = large.reshape(2, 4, 2, 4, 2, 3).astype(float).mean((2, 4))
  assert error.mean() < 0.1 * np.abs(before - small).mean()


@pytest.mark.parametrize('module', [np, jnp])
def test_shuffled_edges_are_those_of_a_neighbour(module):
  config = config_lib.base('ldm')
  batch = {'edges': module.arange(3), 'image': module.arange(3)}
  assert examples.shuffled_condition(config, batch)['edges'].tolist() == [
    0,
    1,
    2,
  ]
  config.sketch.shuffled_condition = True
  moved = examples.shuffled_condition(config, batch)
  assert moved['edges'].tolist() == [2, 0, 1]
  assert moved['image'].tolist() == [0, 1, 2]
