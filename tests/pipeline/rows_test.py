"""Where rows of conditions come from."""

import jax.numpy as jnp
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax.pipeline import rows as rows_lib
from tests.helpers import configs


def test_maps_of_any_task_come_along():
  config = configs.of_task('class', level=0)
  with config.unlocked():
    config.data.maps = ('mask', 'inpaint_mask')
  rows = rows_lib.of_split(config, 'test', 2)(np.arange(2))
  assert rows['mask'].max() > 1
  assert rows['inpaint_mask'].shape == (2, 32, 32)
  assert rows['image'].dtype == np.uint8


def test_enlarged_images_are_projected_on_the_small_one():
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
  large = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
  rows = {'lr_image': small}
  np.testing.assert_array_equal(rows_lib.composite(large, rows), large)
  made = rows_lib.composite(large, rows, project=True)
  means = made.reshape(2, 4, 2, 4, 2, 3).astype(float).mean((2, 4))
  error = np.abs(means - small)
  assert np.median(error) <= 0.5
  before = large.reshape(2, 4, 2, 4, 2, 3).astype(float).mean((2, 4))
  assert error.mean() < 0.1 * np.abs(before - small).mean()


def test_shuffled_edges_are_those_of_a_neighbour():
  config = config_lib.base('ldm')
  batch = {'edges': jnp.arange(3), 'image': jnp.arange(3)}
  still = rows_lib.shuffled_condition(config, batch, 3)
  assert still['edges'].tolist() == [0, 1, 2]
  config.sketch.shuffled_condition = True
  moved = rows_lib.shuffled_condition(config, batch, 3)
  assert moved['edges'].tolist() == [2, 0, 1]
  filled = {'edges': jnp.array([0, 1, 2, 0])}
  moved_too = rows_lib.shuffled_condition(config, filled, 3)
  assert moved_too['edges'].tolist() == [2, 0, 1, 2]
  assert moved['image'].tolist() == [0, 1, 2]


def test_shuffled_edges_of_a_split_do_not_depend_on_the_batch():
  config = configs.of_task('text').copy_and_resolve_references()
  config.data.maps = ('edges',)
  plain = rows_lib.of_split(config, 'test', 3)(np.arange(3))
  config.sketch.shuffled_condition = True
  source = rows_lib.of_split(config, 'test', 3)
  want = plain['edges'][[2, 0, 1]]
  np.testing.assert_array_equal(source(np.arange(3))['edges'], want)
  np.testing.assert_array_equal(source(np.arange(1, 2))['edges'], want[1:2])
