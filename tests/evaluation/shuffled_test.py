import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.evaluation import shuffled


@pytest.mark.parametrize('module', [np, jnp])
def test_foreign_edges_are_those_of_a_neighbour(module):
  config = config_lib.base('ldm')
  batch = {'edges': module.arange(3), 'image': module.arange(3)}
  assert shuffled.condition(config, batch)['edges'].tolist() == [0, 1, 2]
  config.sketch.shuffled_condition = True
  moved = shuffled.condition(config, batch)
  assert moved['edges'].tolist() == [2, 0, 1]
  assert moved['image'].tolist() == [0, 1, 2]
