"""Weights in the element types in which a sampler uses them."""

import functools

import jax
import numpy as np
import pytest

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.planning import abstract
from pyramid_jax.runs import loading
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import system_weights


NAMES = {
  'ldm': 'ldm_shapes.py:text,debug',
  'frido': 'frido_shapes.py:layout,debug',
  'flow': 'flow_shapes.py:class,debug',
  'diffit': 'diffit_shapes.py:class,debug',
  'latent_diffit': 'diffit_latent_shapes.py:class,debug',
  'ladm': 'ladm_shapes.py:text,debug',
  'ladm_control': 'ladm_shapes.py:none,control,debug',
}
QUICK = ('latent_diffit',)
SHORT = {'dtype': 'bfloat16', 'sample.steps': 2}
# XLA's CPU leaves out roundings that it fuses, unless it may not.
ROUNDED = {'xla_allow_excess_precision': False}


def load(name, **fields):
  config = configs.load(NAMES[name], **{**SHORT, **fields})
  if name == 'ladm_control':
    configs.change(config, {'control.base': 'BASE'})
  return config


def run_of(config):
  """Returns a run of random weights on one device."""
  system = workdir_lib.create_system(config)
  weights = system_weights.weights_of(system)
  mesh = mesh_lib.pure_data(jax.devices()[:1])
  return loading.Run(system=system, mesh=mesh, weights=weights, step=1)


def images(run, config):
  """Returns images of a run, float32."""
  row = abstract.condition_row(run.system)
  rng = np.random.default_rng(0)
  ids = {
    name: rng.integers(1, 3, (2, *x.shape[1:])).astype(x.dtype)
    for name, x in row.items()
  }
  spec = settings_lib.of_config(run.system, config).spec
  make = functools.partial(system_lib.generate, run.system, spec=spec)
  keys = system_lib.image_keys(0, np.arange(2))
  program = jax.jit(make, compiler_options=ROUNDED)
  return np.asarray(program(run.weights, keys, ids)[0])


@pytest.mark.parametrize(
  'name',
  [n if n in QUICK else pytest.param(n, marks=pytest.mark.pods) for n in NAMES],
)
def test_images_stay_bit_for_bit(name):
  config = load(name)
  run = run_of(config)
  want = images(run, config)
  used = loading.to_sample(run)
  kinds = {str(x.dtype) for x in jax.tree.leaves(used.weights.params)}
  assert ('bfloat16' in kinds) == (name != 'ladm_control')
  got = images(used, config)
  assert want.std() > 0.01
  np.testing.assert_array_equal(got, want)


def test_the_weights_that_were_there_are_freed():
  run = run_of(load('latent_diffit'))
  given = sharding.leaves(run.weights)
  used = sharding.leaves(loading.to_sample(run).weights)
  for name, leaf in given.items():
    assert leaf.is_deleted() == (used[name].dtype != leaf.dtype), name
    assert not used[name].is_deleted()


@pytest.mark.parametrize('name', ['ldm', 'ladm_control'])
def test_plans_have_the_same_types(name):
  config = load(name)
  used = loading.to_sample(run_of(config)).weights
  mesh = mesh_lib.pure_data(jax.devices()[:1])
  planned = abstract.sampling(config, mesh).frozen
  kinds = lambda x: jax.tree.map(lambda x: x.dtype, (x.params, x.frozen))
  assert kinds(used) == kinds(planned)


def test_float32_stays():
  run = run_of(load('latent_diffit', dtype='float32'))
  used = loading.to_sample(run).weights
  assert jax.tree.leaves(used) == jax.tree.leaves(run.weights)


@pytest.mark.parametrize(
  ('name', 'share'),
  [
    ('diffit_imagenet.py:256', 0.51),
    pytest.param('frido_coco.py:text', 0.52, marks=pytest.mark.pods),
  ],
)
def test_published_weights_have_half_the_bytes(name, share):
  config = configs.load(name, dtype='bfloat16')
  system = workdir_lib.create_system(config)
  mesh = mesh_lib.pure_data(jax.devices()[:1])
  whole, short = (
    sharding.device_bytes(
      loading.abstract(system, config, mesh, to_sample=to_sample).params
    )
    for to_sample in (False, True)
  )
  assert share - 0.02 < short / whole < share
