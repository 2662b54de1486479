"""Systems that begin with an image instead of with noise."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.levels import row
from pyramid_jax.networks.layers import resampling
from pyramid_jax.systems import system as system_lib
from tests.helpers import system_weights


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
  """Returns (system, weights, stages, latents at their grids, spec)."""
  file, overrides = CASES[request.param]
  config = config_lib.load(f'{CONFIGS}/{file}')
  config_lib.override(config, {'sample.guidance': '1', **overrides})
  system, spec = systems.create(config), spec_lib.from_config(config)
  weights = system_weights.weights_of(system)
  batch = {
    'boxes': jnp.zeros((B, 4, 4)),
    'labels': jnp.zeros((B, 4), jnp.int32),
    'n_boxes': jnp.zeros((B,), jnp.int32),
  }
  condition = jax.jit(system.condition)(weights, batch)
  stages = system.stages(weights, condition, (B, 32, 32), spec)
  if request.param == 'diffit':  # the state is the picture
    return system, weights, stages, [IMAGE], spec
  zs = [0.5 * z for z in jax.jit(system.space.encode)(weights.frozen, IMAGE)]
  if request.param == 'frido official':
    zs = [resampling.nearest(z, zs[-1].shape[1:3]) for z in zs]
  return system, weights, stages, zs, spec


def test_every_stage_begins_with_the_noised_picture(made):
  system, weights, stages, zs, _ = made
  edit = system_lib.Edit(IMAGE, strength=0.5)
  state = []
  for stage, z in zip(system.edited(weights, stages, edit), zs, strict=True):
    (segment,) = stage.segments
    assert segment.levels.time.shape == (3,)  # two of four steps
    start = row(segment.levels, 0)
    still, noisy, state = jax.jit(functools.partial(entered, stage))(state)
    np.testing.assert_allclose(still, start.alpha * z, rtol=1e-5, atol=1e-6)
    noised = start.alpha * z + start.sigma
    np.testing.assert_allclose(noisy, noised, rtol=1e-5, atol=1e-6)


def entered(stage, state):
  """Returns the begin without noise, with noise of ones, and what is left."""
  still, _ = stage.enter(state, jnp.zeros)
  noisy, context = stage.enter(state, jnp.ones)
  return still, noisy, stage.leave(state, noisy, noisy, context)


def test_places_of_a_latent_are_free_where_a_pixel_is(made):
  system, weights, stages, zs, _ = made
  edit = system_lib.Edit(IMAGE, MASK)
  for stage, z in zip(system.edited(weights, stages, edit), zs, strict=True):
    (segment,) = stage.segments
    level, ahead = (row(segment.levels, index) for index in (1, 2))
    cell = 32 // z.shape[1]
    seen = asked_at(segment, jnp.full(z.shape, 77.0), level, ahead)
    free = np.asarray(seen == 77.0).all(-1)
    expected = np.zeros(free.shape, bool)
    expected[0, 9 // cell, 30 // cell] = True
    expected[1, :, : 16 // cell] = True
    np.testing.assert_array_equal(free, expected)
    known = level.alpha * np.asarray(z)
    np.testing.assert_allclose(seen[~free], known[~free], rtol=1e-5, atol=1e-6)
    assert segment.levels.time.shape == (5,)  # all steps, from noise


def asked_at(segment, x, level, ahead):
  """Returns the state at which a step that begins at x asks the denoiser."""
  (around,) = segment.around
  seen = []

  def denoise(x, level, first):
    del level, first
    seen.append(x)
    return solvers.base.nothing(x)

  solver = solvers.create('ddim')
  zeros = sampling.StepNoise(lambda index: jnp.zeros(x.shape))
  carry = solver.start(x, segment.levels)
  inputs = solvers.base.StepInputs(denoise, level, ahead, zeros)
  around(solver.step, None)(carry, inputs)
  return seen[0]


def test_the_whole_strength_begins_with_the_picture_too(made):
  system, weights, stages, zs, _ = made
  edited = system.edited(weights, stages, system_lib.Edit(IMAGE))
  (segment,) = edited[0].segments
  assert segment.levels.time.shape == (5,)
  x = jax.jit(lambda: edited[0].enter([], jnp.zeros)[0])()
  alpha = row(segment.levels, 0).alpha
  np.testing.assert_allclose(x, alpha * zs[0], rtol=1e-5, atol=1e-6)


def test_generating_edits(made):
  system, weights, stages, _, spec = made
  keys = jax.random.split(jax.random.key(0), B)
  batch = {
    'boxes': jnp.zeros((B, 4, 4)),
    'labels': jnp.zeros((B, 4), jnp.int32),
    'n_boxes': jnp.zeros((B,), jnp.int32),
  }
  edit = system_lib.Edit(IMAGE, MASK, 0.5)
  images, state = jax.eval_shape(
    lambda weights, edit: system_lib.generate(
      system, weights, keys, batch, spec, edit
    ),
    weights,
    edit,
  )
  assert images.shape == (B, 32, 32, 3)
  assert len(state) == len(stages)
