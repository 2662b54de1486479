"""Systems that begin with a picture instead of with noise."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import system_weights

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.diffusion import stepping
from pyramid_jax.networks.layers import resampling
from pyramid_jax.systems import system as system_lib


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
B = 2
IMAGE = jax.random.uniform(jax.random.key(5), (B, 32, 32, 3)) * 2 - 1
# One pixel of the first picture, the left half of the second.
MASK = jnp.zeros((B, 32, 32), jnp.uint8)
MASK = MASK.at[0, 9, 30].set(1).at[1, :, :16].set(1)
CASES = {
  'diffit': ('diffit_shapes.py:none,debug', {'sample.steps': '4'}),
  'ldm': ('ldm_shapes.py:none,debug', {}),
  'latent diffit': ('diffit_latent_shapes.py:none,debug', {}),
  'frido': ('frido_shapes.py:debug', {}),
  'frido official': (
    'frido_shapes.py:official,debug',
    {'sample.steps': '4'},
  ),
}


@pytest.fixture(scope='module', params=CASES)
def made(request):
  """Returns (system, weights, stages, latents at their grids)."""
  file, overrides = CASES[request.param]
  config = config_lib.load(f'{CONFIGS}/{file}')
  config_lib.override(config, {'sample.guidance': '1', **overrides})
  system = systems.create(config)
  weights = system_weights.weights_of(system)
  batch = {
    'boxes': jnp.zeros((B, 4, 4)),
    'labels': jnp.zeros((B, 4), jnp.int32),
    'n_boxes': jnp.zeros((B,), jnp.int32),
  }
  stages = system.stages(weights, system.condition(weights, batch), (B, 32, 32))
  if request.param == 'diffit':  # the state is the picture
    return system, weights, stages, [IMAGE]
  zs = [0.5 * z for z in system.latents(weights.frozen, IMAGE)]
  if request.param == 'frido official':
    zs = [resampling.nearest(z, zs[-1].shape[1:3]) for z in zs]
  return system, weights, stages, zs


def test_every_stage_begins_with_the_noised_picture(made):
  system, weights, stages, zs = made
  edit = system_lib.Edit(IMAGE, strength=0.5)
  state = []
  for stage, z in zip(system.edited(weights, stages, edit), zs, strict=True):
    ((levels, _),) = stage.spans
    assert levels.time.shape == (3,)  # two of four steps
    start = stepping.row(levels, 0)
    x, _ = stage.enter(state, jnp.zeros)
    np.testing.assert_allclose(x, start.alpha * z, rtol=1e-5, atol=1e-6)
    x, context = stage.enter(state, jnp.ones)
    noised = start.alpha * z + start.sigma
    np.testing.assert_allclose(x, noised, rtol=1e-5, atol=1e-6)
    state = stage.leave(state, x, x, context)


def test_places_of_a_latent_are_free_where_a_pixel_is(made):
  system, weights, stages, zs = made
  edit = system_lib.Edit(IMAGE, MASK)
  for stage, z in zip(system.edited(weights, stages, edit), zs, strict=True):
    level = stepping.row(stage.spans[0][0], 1)
    cell = 32 // z.shape[1]
    x = jnp.full(z.shape, 77.0)
    seen = stage.before(x, level, lambda x=x: jnp.zeros(x.shape))
    free = np.asarray(seen == 77.0).all(-1)
    expected = np.zeros(free.shape, bool)
    expected[0, 9 // cell, 30 // cell] = True
    expected[1, :, : 16 // cell] = True
    np.testing.assert_array_equal(free, expected)
    known = level.alpha * np.asarray(z)
    np.testing.assert_allclose(seen[~free], known[~free], rtol=1e-5, atol=1e-6)
    assert stage.spans[0][0].time.shape == (5,)  # all steps, from noise


def test_the_whole_strength_begins_with_the_picture_too(made):
  system, weights, stages, zs = made
  edited = system.edited(weights, stages, system_lib.Edit(IMAGE))
  ((levels, _),) = edited[0].spans
  assert levels.time.shape == (5,)
  x, _ = edited[0].enter([], jnp.zeros)
  alpha = stepping.row(levels, 0).alpha
  np.testing.assert_allclose(x, alpha * zs[0], rtol=1e-5, atol=1e-6)


def test_generating_edits(made):
  system, weights, stages, _ = made
  batch = {
    'boxes': jnp.zeros((B, 4, 4)),
    'labels': jnp.zeros((B, 4), jnp.int32),
    'n_boxes': jnp.zeros((B,), jnp.int32),
  }
  edit = system_lib.Edit(IMAGE, MASK, 0.5)
  images, state = jax.eval_shape(
    lambda weights, edit: system_lib.generate(
      system, weights, jax.random.key(0), batch, B, edit=edit
    ),
    weights,
    edit,
  )
  assert images.shape == (B, 32, 32, 3)
  assert len(state) == len(stages)
