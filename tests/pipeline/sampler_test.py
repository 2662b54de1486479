"""Images are functions of weights, row, seed and number, of nothing else."""

import dataclasses
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax import systems
from pyramid_jax.distributed import flags
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.pipeline import sampler
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import system_weights


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
COUNT = 9
ROWS = {'class': np.array([1, 7, 24], np.int32)}


def load(name='diffit_shapes.py:debug', **fields):
  values = {
    'data.image_size': 16,
    'network.window': 4,
    'sample.steps': 2,
    'sample.solver': 'euler',
    'sample.batch_size': 4,
  }
  return configs.load(name, **values | fields)


def make(config, devices=1):
  system = systems.create(config)
  mesh = mesh_lib.create(config.mesh, jax.devices()[:devices])
  weights = system_weights.weights_of(system)
  weights = jax.device_put(weights, mesh_lib.replicated(mesh))
  return sampler.Sampler(system, weights, mesh, config)


def images_of(pipe, rows=ROWS, **changes):
  """Samples images 0, 1, ..., whose rows serve in turn."""
  changes = {'seed': 3, **changes}
  settings = settings_lib.of_config(pipe.system, pipe.config, **changes)
  numbers = np.arange(COUNT)
  batch = {name: x[numbers % len(x)] for name, x in rows.items()}
  return pipe.sample(batch, settings, numbers).images


@pytest.fixture(scope='module')
def config():
  return load()


@pytest.fixture(scope='module')
def pipe(config):
  return make(config)


@pytest.fixture(scope='module')
def images(pipe):
  return images_of(pipe)


def near(got, want):
  """Says whether images agree to a step of uint8: their sums may differ."""
  assert got.dtype == np.uint8
  return np.abs(got.astype(int) - want.astype(int)).max() <= 1


def test_the_config_says_how_samples_become_uint8(images):
  truncated = images_of(make(load(sample__to_uint8='truncate')))
  less = images.astype(int) - truncated
  assert set(np.unique(less)) == {0, 1}
  assert 0.3 < less.mean() < 0.7


def test_an_image_has_its_row(pipe, images):
  turned = {'class': np.roll(ROWS['class'], -1)}
  other = images_of(pipe, turned)
  assert not near(other[7], images[7])


def test_another_guidance_scale_needs_no_compilation(config, monkeypatch):
  traces = []
  generate = system_lib.generate

  def counted(system, weights, keys, batch, spec, *others):
    traces.append(spec.guidance)
    return generate(system, weights, keys, batch, spec, *others)

  monkeypatch.setattr(system_lib, 'generate', counted)
  pipe = make(config)
  settings = settings_lib.of_config(pipe.system, config)

  def sample(guidance, pipe=pipe):
    spec = settings.spec.replace(guidance=guidance)
    own = dataclasses.replace(settings, spec=spec)
    return pipe.sample(ROWS, own, np.arange(3)).images

  guidance = settings_lib.of_config(
    pipe.system, load(sample__guidance=2.0)
  ).spec.guidance
  first = sample(guidance)
  assert not near(sample(guidance.replace(scale=5)), first)
  sample(guidance.replace(scale=np.float32(1.0)))
  assert len(traces) == 1
  sample(None)
  assert [trace is None for trace in traces] == [False, True]
  sample(None, pipe.with_weights(pipe.weights))
  assert len(traces) == 2


def test_models_of_a_cascade_have_noise_of_their_own(pipe, images):
  assert not near(images_of(pipe, stream=1)[0], images[0])
  assert near(images_of(pipe, stream=1)[7], images_of(pipe, stream=1)[7])
  keys = {
    tuple(sampler._key_data(_settings(stream=stream), np.arange(50))[i])
    for stream in (0, 1, 2)
    for i in range(50)
  }
  assert len(keys) == 150


def _settings(**fields):
  config = load()
  return settings_lib.of_config(systems.create(config), config, **fields)


def test_what_cannot_be_sampled_is_refused_before(pipe):
  def refused(**fields):
    settings = _settings(**fields)
    with pytest.raises(ValueError) as error:  # noqa: PT011
      pipe.check(ROWS, settings)
    return str(error.value)

  pipe.check(ROWS, _settings())
  extent = system_lib.Extent
  assert 'last scale is 1, allowed are 0..0' in refused(extent=extent(last=1))
  assert 'makes squares of 16 px only' in refused(extent=extent(shape=(8, 16)))


def test_finished_scales_of_another_shape_are_refused():
  config = config_lib.load(f'{CONFIGS}/ladm_shapes.py:none,debug')
  config.sample.steps = 1
  pipe = make(config)
  settings = settings_lib.of_config(
    pipe.system, config, extent=system_lib.Extent(last=0)
  )
  made = pipe.sample({}, settings, np.arange(2))

  def starting(*scales):
    extent = system_lib.Extent(start=scales)
    return dataclasses.replace(settings, extent=extent)

  pipe.check({}, starting(*made.scales))
  with pytest.raises(ValueError, match='scale 0 of the start has the shape'):
    pipe.check({}, starting(made.scales[0][:, 1:]))


def test_seeds_have_63_bits():
  """Of `jax.random.key` 32 bits count, so that 2**32 + 1 is 1."""
  keys = {
    tuple(sampler._key_data(_settings(seed=seed), np.arange(1))[0])
    for seed in (1, 2**32, 2**32 + 1, 2**63 - 1)
  }
  assert len(keys) == 4
  want = jax.random.key_data(system_lib.image_keys(7, np.arange(3)))
  got = sampler._key_data(_settings(seed=7), np.arange(3))
  np.testing.assert_array_equal(got, want)


def test_the_number_of_steps_that_run_is_said_once(caplog):
  """The official rule of latent diffusion takes 31 steps for 30."""
  config = config_lib.load(f'{CONFIGS}/ldm_shapes.py:class,debug')
  config.sample.steps = 30
  system = systems.create(config)
  weights = system_weights.shapes_of(system)
  mesh = mesh_lib.create(config.mesh)
  pipe = sampler.Sampler(system, weights, mesh, config)
  spec = settings_lib.of_config(system, config).spec
  with caplog.at_level(logging.INFO):
    pipe._announce(spec)
    pipe.with_weights(weights)._announce(spec)
  (line,) = [r.getMessage() for r in caplog.records]
  # A person who asks from Python sees warnings alone.
  assert caplog.records[0].levelno == logging.WARNING
  length = len(levels_of(system, weights, spec)) - 1
  assert line == f'sampling by ddim: {length} steps (sample.steps=30)'
  assert length == 31


def levels_of(system, weights, spec):
  found = []

  def build(weights):
    shape = (1, system.image_size, system.image_size)
    (stage,) = system.stages(weights, system.example_condition(), shape, spec)
    found.append(stage.segments[0].levels.time)
    return 0

  jax.eval_shape(build, weights)
  return found[0]


def test_samples_that_are_not_finite_are_refused(config, monkeypatch, caplog):
  def broken(system, weights, keys, batch, *others):
    """Gives the image of class 7 a NaN, that of class 24 an infinite scale."""
    del system, weights, others
    spoil = lambda number, value: jnp.where(batch['class'] == number, value, 0)
    images = jnp.zeros((len(keys), 16, 16, 3)).at[:, 3, 5, 1]
    scale = jnp.zeros((len(keys), 2)).at[:, 1]
    return images.set(spoil(7, jnp.nan)), [scale.set(spoil(24, jnp.inf))]

  monkeypatch.setattr(system_lib, 'generate', broken)
  own = make(config)
  settings = settings_lib.of_config(own.system, config)
  # A preview of a training run shows what there is.
  own.preview(ROWS, settings, 3)
  assert 'NaN or Inf in the samples of image 1, 2; likely' in caplog.text

  high = config.copy_and_resolve_references()
  high.sample.guidance, high.dtype = 1e30, 'bfloat16'
  own = pipeline.Pipeline(own.system, own.weights, own.mesh, high)
  labels = [*ROWS['class']] * 3
  request = own.request(label=labels)
  batches = own.stream(request, first=3, batch_size=1)
  assert next(batches).finite.all()
  with pytest.raises(pipeline.NotFinite) as error:
    next(batches)
  assert error.value.code == errors.DIVERGED
  assert 'image 4; likely' in str(error.value)
  assert (
    'config.sample.guidance=1e+30, config.dtype=bfloat16, the weights.'
  ) in str(error.value)
  # Images that only fill the batch up are not asked for.
  assert own(label=[1, 1, 1, 1, 1, 7], count=5).shape == (5, 16, 16, 3)


def test_a_bug_in_a_network_keeps_its_traceback(pipe, monkeypatch):
  def broken(*args):
    raise ValueError('shapes do not fit')

  monkeypatch.setattr(type(pipe.system), 'edited', broken)
  rows = {**ROWS, 'image': np.zeros((1, 16, 16, 3), np.uint8)}
  with pytest.raises(ValueError, match='shapes do not fit') as error:
    pipe.check(rows, _settings(strength=0.5))
  assert not isinstance(error.value, errors.UserError)


def test_the_compiler_gets_the_options_of_a_config(config, monkeypatch):
  unknown = {'xla_no_such_option': True}
  monkeypatch.setattr(flags, 'of_config', lambda config, mesh: unknown)
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_option'):
    images_of(make(config))
