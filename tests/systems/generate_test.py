"""What is common to sampling from every system."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.systems import system as system_lib
from tests.helpers import system_weights


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
# With solvers that draw noise in every step.
FILES = {
  'ldm': ('ldm_shapes.py:class,debug', {'sample.eta': '1'}),
  'frido': ('frido_shapes.py:debug', {'sample.solver': 'ddpm'}),
  'latent diffit': (
    'diffit_latent_shapes.py:class,debug',
    {'sample.solver': 'ddpm'},
  ),
  'diffit': ('diffit_shapes.py:class,debug', {'sample.churn': '40'}),
  'ladm': ('ladm_shapes.py:class,debug', {'sample.solver': 'ddpm'}),
}
BATCH = {
  'class': jnp.array([3, 24, 1]),
  'boxes': jnp.tile(jnp.array([0.1, 0.1, 0.6, 0.5]), (3, 4, 1)),
  'labels': jnp.array([[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 0]]),
  'n_boxes': jnp.array([2, 1, 3]),
}


@functools.cache
def made(name):
  """Returns a system, random weights and a spec of few steps."""
  file, values = FILES[name]
  config = config_lib.load(f'{CONFIGS}/{file}')
  values = {'sample.guidance': '2', 'sample.steps': '2', **values}
  config_lib.override(config, values)
  system, spec = systems.create(config), spec_lib.from_config(config)
  system.check_spec(spec)
  return system, system_weights.weights_of(system), spec


@functools.cache
def sampler(name):
  """Returns (weights, keys, batch) -> an image and its scales, compiled."""
  system, _, spec = made(name)

  @functools.partial(jax.jit, static_argnames=('last',))
  def sample(weights, keys, batch, start=(), last=None):
    extent = system_lib.Extent(start=start, last=last)
    with jax.default_matmul_precision('highest'):
      return system_lib.generate(
        system, weights, keys, batch, spec, extent=extent
      )

  return sample


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', FILES)
def test_an_image_depends_on_its_key_and_condition_alone(name):
  _, weights, _ = made(name)
  sample = lambda *args: sampler(name)(*args)[1][-1]
  keys = system_lib.image_keys(5, [0, 1, 7])
  three = sample(weights, keys, BATCH)
  order = jnp.array([2, 0])
  rows = jax.tree.map(lambda x: x[order], BATCH)
  two = sample(weights, keys[order], rows)
  scale = np.abs(three).max()
  np.testing.assert_allclose(two, three[order], rtol=0, atol=1e-5 * scale)
  # The keys matter, and so does that of each image.
  other = sample(weights, system_lib.image_keys(6, [7, 0]), rows)
  assert np.abs(other - two).max((1, 2, 3)).min() > 1e-2 * scale


@pytest.mark.parametrize('name', ['ldm', 'diffit'])
def test_one_program_serves_every_scale_of_guidance(name):
  system, weights, spec = made(name)
  keys = system_lib.image_keys(5, [0, 1, 2])
  traced = []

  @jax.jit
  def sample(weights, spec):
    traced.append(spec)
    return system_lib.generate(system, weights, keys, BATCH, spec)[1][-1]

  guidance = classifier_free.Guidance
  one, two, again = (
    np.asarray(sample(weights, spec.replace(guidance=guidance(scale))))
    for scale in (1.5, 3.0, 1.5)
  )
  assert len(traced) == sample._cache_size() == 1
  np.testing.assert_array_equal(one, again)
  assert np.abs(one - two).max() > 1e-3 * np.abs(one).max()
  # No guidance is another program, without the null half.
  jax.eval_shape(sample, weights, spec.replace(guidance=None))
  assert len(traced) == 2


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', ['frido', 'ladm'])
def test_finished_scales_are_built_on_and_the_last_is_chosen(name):
  system, weights, _ = made(name)
  keys = system_lib.image_keys(5, [0, 1, 2])
  sample = functools.partial(sampler(name), weights, keys, BATCH)
  image, whole = sample()
  assert len(whole) == system.stage_count
  early, coarse = sample(last=0)
  assert len(coarse) == 1
  scale = np.abs(whole[-1]).max()
  np.testing.assert_allclose(coarse[0], whole[0], atol=1e-5 * scale)
  same, later = sample(start=(whole[0],))
  for a, b in zip(later, whole, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * scale)
  np.testing.assert_allclose(same, image, atol=1e-4)
  assert early.shape != image.shape or np.abs(early - image).max() > 1e-3


def test_keys_of_images_are_those_of_their_numbers():
  data = lambda keys: np.asarray(jax.random.key_data(keys))
  keys = system_lib.image_keys(3, [0, 7, 2])
  for key, index in zip(keys, (0, 7, 2), strict=True):
    want = jax.random.fold_in(jax.random.key(3), index)
    np.testing.assert_array_equal(data(key), data(want))
  assert len(np.unique(data(system_lib.image_keys(3, range(50))), axis=0)) == 50
