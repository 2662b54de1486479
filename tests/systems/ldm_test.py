import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion import tiling
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.distributed import initial
from pyramid_jax.systems import ldm
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import measuring
from tests.helpers import official_fill
from tests.helpers import system_weights


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
TASKS = (
  'layout',
  'class',
  'label',
  'text',
  'superres',
  'inpaint',
  'map',
  'none',
)
B = 2
KEYS = jax.random.split(jax.random.key(0), B)


def load(variants='debug', **overrides):
  return configs.load(f'ldm_shapes.py:{variants}', **overrides)


BATCH = {
  'image': jax.random.uniform(jax.random.key(5), (B, 32, 32, 3)) * 2 - 1,
  'boxes': jnp.tile(jnp.array([0.1, 0.1, 0.6, 0.5]), (B, 4, 1)),
  'labels': jnp.array([[1, 2, 0, 0], [3, 0, 0, 0]]),
  'n_boxes': jnp.array([2, 1]),
  'class': jnp.array([3, 24]),
  'condition_ids': jnp.array([[2, 7, 3, 0], [2, 9, 9, 3]]),
  'lr_image': jnp.ones((B, 8, 8, 3)),
  'mask': jnp.tile(jnp.arange(32, dtype=jnp.uint8) % 29, (B, 32, 1)),
  'inpaint_mask': jnp.zeros((B, 32, 32), jnp.uint8).at[:, :8].set(1),
}


def losses(system, weights, step, batch=BATCH):
  return system.losses(
    weights,
    jax.random.key(0),
    step,
    batch,
  )


@pytest.mark.parametrize(
  ('given', 'spacing'), [({}, 'log_snr'), ({'spacing': 'official'}, 'official')]
)
def test_the_spacing_follows_the_solver_unless_it_is_given(given, spacing):
  given = {f'sample__{name}': value for name, value in given.items()}
  config = load(sample__solver='unipc', **given)
  assert spec_lib.from_config(config).make_solver() == solvers.create('unipc')
  got, want = walked(config)
  np.testing.assert_array_equal(got.time, want(spacing).time)
  got, want = walked(load())
  np.testing.assert_array_equal(got.time, want('official').time)
  assert len(want('official').time) == len(want('log_snr').time)
  assert not np.array_equal(want('official').time, want('log_snr').time)


CHAIN = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0195)


def walked(config):
  """Returns the levels of the only stage, and (spacing) -> its levels."""
  system, found = systems.create(config), []

  def trace(weights):
    condition = system.condition(weights, BATCH)
    spec = spec_lib.from_config(config)
    (stage,) = system.stages(weights, condition, (B, 32, 32), spec)
    found.extend(segment.levels for segment in stage.segments)

  jax.eval_shape(trace, system_weights.shapes_of(system))
  (levels,) = found
  return levels, functools.partial(
    timesteps.spaced_levels, system.chain, config.sample.steps
  )


def shapes(config):
  """Traces training and sampling, without computing anything."""
  system = systems.create(config)
  spec = spec_lib.from_config(config)
  system.check_spec(spec)
  weights = system_weights.shapes_of(system)
  trained = jax.eval_shape(
    functools.partial(losses, system), weights, jnp.int32(0)
  )
  sampled = jax.eval_shape(
    lambda weights: system_lib.generate(system, weights, KEYS, BATCH, spec),
    weights,
  )
  return system, weights, trained, sampled


@pytest.mark.turns(3, group='systems')
@pytest.mark.parametrize('task', TASKS)
def test_every_task_trains_and_samples(task):
  first = 'vq' if task in ('inpaint', 'text') else 'kl'
  system, _, (results, extra), (image, state) = shapes(
    load(f'{task},{first},debug')
  )
  loss, metrics = results['generator']
  assert loss.shape == ()
  assert {'loss_simple', 'loss_vlb'} <= metrics.keys()
  assert extra['latent_scale'].shape == (1,)
  assert image.shape == (B, 32, 32, 3)
  assert [z.shape for z in state] == [(B, 8, 8, 4)]
  channels = {'superres': 3, 'inpaint': 5, 'map': 8}.get(task, 0)
  assert system.unet.in_channels == 4 + channels


@pytest.mark.parametrize('task', ['none', 'class', 'superres', 'inpaint'])
def test_without_a_first_stage_images_are_diffused(task):
  config = load(f'{task},debug').unlock()
  del config.first_stage
  config_lib.validate(config)
  system, weights, (results, _), (image, state) = shapes(config)
  assert results['generator'][0].shape == ()
  assert not weights.frozen
  assert [z.shape for z in state] == [image.shape] == [(B, 32, 32, 3)]
  channels = {'superres': 3, 'inpaint': 4}.get(task, 0)
  assert system.unet.in_channels == 3 + channels
  rows = {key: jnp.asarray(x) for key, x in BATCH.items()}
  trained = system.space.training(weights, rows, jax.random.key(0))
  np.testing.assert_array_equal(trained[0], BATCH['image'])


def test_t5_is_a_frozen_encoder_of_texts():
  fields = {'encoder': 't5', 'mlp_dim': '24', 'dim': '16', 'depth': '1'}
  fields = {f'condition__{name}': value for name, value in fields.items()}
  system, weights, (results, _), _ = shapes(load('text,debug', **fields))
  part = system.pretrained_parts()['condition']
  assert (part.family, part.field) == ('t5', 'condition.weights')
  assert 'condition' not in weights.params['generator']
  assert weights.frozen['condition']['block_0']['wi_0']['kernel'].shape == (
    16,
    24,
  )
  assert results['generator'][0].shape == ()
  with pytest.raises(ValueError, match="encoder 't5' serves .* not 'layout'"):
    systems.create(load('layout,debug', **fields))


def test_classes_by_the_noise_level_beside_a_picture():
  config = load(
    'superres,debug',
    condition__also='class',
    condition__class_by='timestep',
    condition__num_classes='24',
    diffusion__learn_logvar='true',
    diffusion__parameterization='v',
  )
  system, weights, (results, _), (image, _) = shapes(config)
  assert system.unet.num_classes == 25
  generator = weights.params['generator']
  assert generator['logvar'].shape == (1000,)
  assert generator['unet']['label_emb']['embedding'].shape == (25, 128)
  assert 'condition' not in generator  # nothing of it is trained
  assert 'logvar' in results['generator'][1]
  assert image.shape == (B, 32, 32, 3)


def test_latent_scale_is_measured_before_the_first_step():
  system = systems.create(load('none,vq,debug'))
  weights = system_weights.weights_of(system)
  run = jax.jit(functools.partial(losses, system))
  batch = {'image': BATCH['image']}
  extra = measuring.measured(system, weights, batch)
  (z,) = system.space.encode(weights.frozen, BATCH['image'])
  scaled = np.asarray(z) * float(extra['latent_scale'][0])
  assert scaled.std(ddof=1) == pytest.approx(1.0, rel=1e-4)
  results, later = run(weights, jnp.int32(0), batch)
  np.testing.assert_array_equal(later['latent_scale'], 0.5)
  loss, metrics = results['generator']
  np.testing.assert_allclose(loss, metrics['loss_simple'], rtol=1e-6)


def test_deviation_of_the_initial_text_embeddings():
  for value, expected in (('1.0', 1.0), ('0.02', 0.02)):
    system = systems.create(load('text,debug', condition__embed_std=value))
    params = initial.evaluate(system.encoder.init, jax.random.key(0))
    table = params['token_emb']['embedding']
    assert np.std(table) == pytest.approx(expected, rel=0.1)


@pytest.mark.turns(3, group='systems')
def test_cache_changes_nothing():
  config = load('class,debug')
  system, spec = systems.create(config), spec_lib.from_config(config)
  weights = system_weights.weights_of(system)
  noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(3), B))

  @jax.jit
  def sample(weights):
    condition = system.condition(weights, {'class': BATCH['class']})
    (cached,) = system.stages(weights, condition, (B, 32, 32), spec)
    network = system.denoiser(weights.params['generator'], 0)
    plain = dataclasses.replace(network, cached=False).guided(
      *system.levels(spec), condition, (B, 8, 8, 4), spec.guidance_of(0)
    )
    solver = spec.make_solver()
    return [sampling.run([s], solver, noise)[0] for s in (cached, plain)]

  with jax.default_matmul_precision('highest'):
    cached, plain = sample(weights)
  np.testing.assert_allclose(cached, plain, atol=2e-4 * np.abs(plain).max())


class Toy:
  """tanh(x) t / 1000 + 0.05 x + 0.1 c, the network of the reference table."""

  def apply(self, variables, x, t, context, y, **kwargs):
    del y
    out = jnp.tanh(x) * t.reshape(-1, 1, 1, 1) / 1000 + 0.05 * x
    if context is not None:
      out += 0.1 * context.reshape(-1, 1, 1, 1)
    return (out, {}) if 'mutable' in kwargs else out


def sample_toy(
  network, solver, guidance=None, parameterization='eps', x=None, tiles=None
):
  if x is None:
    x = official_fill.sine((2, 1, 2, 2), 0.2).transpose(0, 2, 3, 1)
  network = ldm.denoiser(network, {}, parameterization)
  levels = timesteps.spaced_levels(CHAIN, 5, solvers.SPACINGS[solver])
  condition = condition_lib.Condition(
    context=condition_lib.Inputs(context=jnp.ones((2, 1, 1))),
    null=condition_lib.Inputs(context=jnp.zeros((2, 1, 1))),
  )
  args = levels, condition, x.shape, guidance
  if tiles is None:
    stage = network.guided(*args)
  else:
    stage = ldm.tiled_stage(network, *args, tiles)
  noise = sampling.Noise.recorded([x])
  with jax.default_matmul_precision('highest'):
    (z,) = sampling.run([stage], solvers.create(solver), noise)
  return z.transpose(0, 3, 1, 2).ravel()


def test_guided_sampling_of_the_reference_table():
  want = (
    [-2.091297, -1.695078, -1.323459, -0.973421]
    + [-0.638513, -0.308696, 0.026656, 0.371490],
    [-0.786471, -0.472157, -0.180788, 0.097766]
    + [0.373875, 0.659011, 0.960828, 1.276792],
  )
  for solver, row in zip(('ddim', 'plms'), want, strict=True):
    got = sample_toy(Toy(), solver, classifier_free.Guidance(3.0))
    np.testing.assert_allclose(got, row, atol=1e-5)


def test_windows_of_a_large_latent_and_an_interval_of_guidance():
  # The toy network sees single places: windows change nothing.
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 10, 1)))
  tiles = tiling.tiling((7, 10), 4, 3)
  guidance = classifier_free.Guidance(3.0, (0.1, 0.7))
  whole = sample_toy(Toy(), 'ddim', guidance, x=x)
  parts = sample_toy(Toy(), 'ddim', guidance, x=x, tiles=tiles)
  np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)
  everywhere = sample_toy(Toy(), 'ddim', classifier_free.Guidance(3.0), x=x)
  assert np.abs(whole - everywhere).max() > 0.1


@pytest.mark.parametrize('parameterization', ['eps', 'x0', 'v'])
def test_a_perfect_network_leads_to_the_clean_latent(parameterization):
  clean = jnp.linspace(-1, 1, 8).reshape(2, 2, 2, 1)

  class Perfect:
    def apply(self, variables, x, t, context, y, **kwargs):
      level = t.astype(jnp.int32)[0]
      alpha, sigma = CHAIN.alpha(level), CHAIN.sigma(level)
      eps = (x - alpha * clean) / sigma
      out = {'eps': eps, 'x0': clean, 'v': alpha * eps - sigma * clean}
      out = out[parameterization]
      return (out, {}) if 'mutable' in kwargs else out

  got = sample_toy(
    Perfect(),
    'ddim',
    parameterization=parameterization,
    x=jnp.ones((2, 2, 2, 1)),
  )
  # The official end level keeps the noise of the first level.
  np.testing.assert_allclose(got, clean.ravel(), atol=0.08)


def test_dropped_conditions_are_null():
  tokens = condition_lib.Inputs(concat=jnp.ones((64, 2, 2, 1)), y=jnp.ones(64))
  null = jax.tree.map(jnp.zeros_like, tokens)
  mixed = conditioning.dropout(tokens, null, jax.random.key(0), 0.25)
  assert 0.05 < 1 - mixed.y.mean() < 0.5
  for a, b in zip(mixed.concat, mixed.y, strict=True):
    np.testing.assert_array_equal(a, b)


def test_scale_of_latents_is_undone_before_decoding():
  class FirstStage:
    def apply(self, variables, zs, method):
      assert method == 'decode'
      return jnp.repeat(zs[0], 3, axis=-1)

  system = systems.create(load('none,debug'))
  space = dataclasses.replace(system.space, first_stage=FirstStage())
  system = dataclasses.replace(system, space=space)
  weights = system_lib.Weights(
    params={},
    frozen={'first_stage': {}},
    extra={'latent_scale': jnp.array([2.0])},
  )
  image = system.decode(weights, [jnp.full((1, 2, 2, 1), 0.5)])
  np.testing.assert_array_equal(image, 0.25)


@pytest.mark.parametrize('parts', [1, 2, 3])
def test_deviation_of_values_in_parts(parts):
  values = np.random.default_rng(0).normal(2.0, 3.0, (parts, 8, 2))
  values += np.arange(parts)[:, None, None]  # their means differ
  got = spaces.inverse_std(
    jnp.asarray(values.mean(1)),
    jnp.asarray(values.var(1, ddof=1)),
    jnp.full((parts, 2), 8.0),
  )
  want = 1 / values.reshape(-1, 2).std(0, ddof=1)
  np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
  ('variants', 'overrides', 'message'),
  [
    ('debug', {'data__image_size': '34'}, 'must be a multiple of 4'),
    ('debug', {'condition__task': 'none'}, 'use_spatial_transformer is True'),
    ('superres,debug', {'data__lr_factor': '2'}, 'lr_factor is 2, must be 4'),
    (
      'class,debug',
      {'condition__null_class': 'false'},
      'no null condition for .*condition.cond_dropout = 0.1, which must be 0',
    ),
    ('class,debug', {'condition__class_by': 'name'}, "'name', must be one of"),
    ('class,debug', {'condition__also': 'class'}, "also is 'class'"),
    ('text,debug', {'condition__also': 'class'}, 'are both tokens'),
    ('map,debug', {'condition__also': 'superres'}, 'are both channels'),
    ('debug', {'diffusion__parameterization': 'x'}, "'x' is not one of"),
    ('debug', {'network__channel_mult': '(2, 2)'}, 'must start with 1'),
  ],
)
def test_fields_that_do_not_fit_are_named(variants, overrides, message):
  with pytest.raises(ValueError, match=message):
    systems.create(load(variants, **overrides))


@pytest.mark.parametrize(
  ('variants', 'overrides', 'message'),
  [
    ('debug', {'sample__steps': '5,5'}, 'has 2 values, must be one number'),
    ('debug', {'sample__steps': '300'}, '300 sampling steps'),
    (
      'class,debug',
      {'condition__null_class': 'false', 'condition__cond_dropout': '0'},
      'no null condition for guidance: config.sample.guidance must be 1',
    ),
    ('debug', {'sample__guidance_channels': '5'}, 'is 5, must be at most 4'),
    ('debug', {'sample__eta': '1', 'sample__solver': 'plms'}, 'plms needs eta'),
  ],
)
def test_sampling_that_does_not_fit_is_named(variants, overrides, message):
  config = load(variants, **overrides)
  system = systems.create(config)
  with pytest.raises(ValueError, match=message):
    system.check_spec(spec_lib.from_config(config))


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    (
      {'solver': 'heun', 'churn': edm_timesteps.Churn(amount=5.0)},
      'churn is 5.0, must be 0 on a discrete chain',
    ),
    (
      {'churn': edm_timesteps.Churn(amount=5.0)},
      'churn is 5.0, but ddim needs churn = 0',
    ),
  ],
)
def test_specs_of_other_systems_are_refused(changed, message):
  config = load()
  spec = spec_lib.from_config(config).replace(**changed)
  with pytest.raises(ValueError, match=message):
    systems.create(config).check_spec(spec)


def test_a_model_without_conditions_ignores_guidance():
  config = load('none,debug', sample__guidance='3.0')
  system, _, _, (image, _) = shapes(config)
  assert image.shape == (B, 32, 32, 3)
  levels = timesteps.spaced_levels(CHAIN, 5, 'official')
  stage = functools.partial(ldm.denoiser(Toy(), {}).guided, levels)
  alone = stage(condition_lib.Condition(), (B, 8, 8, 4))
  guided = stage(
    condition_lib.Condition(), (B, 8, 8, 4), classifier_free.Guidance(3.0)
  )
  assert len(guided.segments) == len(alone.segments) == 1
  assert type(guided.segments[0].denoise) is type(alone.segments[0].denoise)


def test_a_first_stage_of_two_scales_is_refused():
  config = load('none,debug')
  frido = config_lib.load(f'{CONFIGS}/frido_shapes.py:debug')
  with config.unlocked():
    config.first_stage = frido.first_stage
  with pytest.raises(ValueError, match='has 2 scales, must have one'):
    systems.create(config)


def test_frido_refuses_pictures():
  config = config_lib.load(f'{CONFIGS}/frido_shapes.py:debug')
  config_lib.override(config, {'condition.task': 'map'})
  with pytest.raises(ValueError, match="'map' .* not served by frido"):
    systems.create(config)
