import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import systems
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.levels import row
from pyramid_jax.systems import frido
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import measuring
from tests.helpers import system_weights


def load(variants='debug', **overrides):
  return configs.load(f'frido_shapes.py:{variants}', **overrides)


BATCH = {
  'image': jax.random.uniform(jax.random.key(5), (2, 32, 32, 3)) * 2 - 1,
  'boxes': jnp.tile(jnp.array([0.1, 0.1, 0.6, 0.5]), (2, 4, 1)),
  'labels': jnp.array([[1, 2, 0, 0], [3, 0, 0, 0]]),
  'n_boxes': jnp.array([2, 1]),
}


@pytest.fixture(scope='module')
def native():
  system = systems.create(load())
  return system, system_weights.weights_of(system)


@pytest.mark.turns(3, group='systems')
def test_latent_scale_is_measured_before_the_first_step(native):
  system, weights = native
  extra = measuring.measured(system, weights, BATCH)
  raw = system.space.encode(weights.frozen, BATCH['image'])
  for s, z in enumerate(raw):
    scaled = np.asarray(z) * float(extra['latent_scale'][s])
    assert scaled.std(ddof=1) == pytest.approx(1.0, rel=1e-4)

  @jax.jit
  def losses(step):
    return system.losses(
      weights,
      jax.random.key(0),
      step,
      BATCH,
    )

  results, later = losses(jnp.int32(0))
  loss, metrics = results['generator']
  mean = (metrics['loss_0'] + metrics['loss_1']) / 2
  np.testing.assert_allclose(loss, mean, rtol=1e-5)
  np.testing.assert_array_equal(later['latent_scale'], 0.5)


@pytest.mark.turns(3, group='systems')
def test_cache_changes_nothing_and_a_coarse_latent_is_built_on(native):
  system, weights = native
  spec = spec_lib.from_config(load())
  solver = spec.make_solver()
  noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(3)))

  @jax.jit
  def sample(weights):
    condition = system.condition(weights, BATCH)
    shape, params = (2, 32, 32), weights.params['generator']
    build = lambda: system.stages(weights, condition, shape, spec)
    uncached = [
      dataclasses.replace(system.denoiser(params, s), cached=False).guided(
        levels, condition, system.state_shape(shape, s), spec.guidance_of(s)
      )
      for s, levels in enumerate(system.levels(spec))
    ]
    full = sampling.run(build(), solver, noise)
    plain = sampling.run(uncached, solver, noise)
    late = sampling.run(build(), solver, noise, start=full[:1])
    preview = system.decode(weights, full[:1])
    return full, plain, late, preview, system.decode(weights, full)

  with jax.default_matmul_precision('highest'):
    full, plain, late, preview, image = sample(weights)
  assert [z.shape for z in full] == [(2, 4, 4, 8), (2, 8, 8, 8)]
  for a, b in zip(full, plain, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(a).max())
  np.testing.assert_allclose(late[1], full[1], rtol=1e-5, atol=1e-5)
  assert preview.shape == image.shape == (2, 32, 32, 3)
  assert np.abs(image).max() <= 1
  assert not np.allclose(preview, image)


def test_official_layout_leaves_a_pooled_coarse_scale():
  levels = timesteps.spaced_levels(schedules.make_chain(), 2, 'official')
  system = systems.create(load('official,debug'))
  shapes = [system.state_shape((1, 32, 32), s) for s in range(2)]
  assert shapes == [(1, 8, 8, 8)] * 2
  weights = system_weights.weights_of(system)
  inputs = condition_lib.Inputs(context=jnp.zeros((1, 4, 32)))
  stages = [
    system.denoiser(weights.params['generator'], s).stage(levels, inputs, shape)
    for s, shape in enumerate(shapes)
  ]
  x = jnp.arange(8.0 * 8 * 8).reshape(1, 8, 8, 8)
  (coarse,) = stages[0].leave([], x, x, None)
  want = np.asarray(x).reshape(1, 4, 2, 4, 2, 8).mean((2, 4))
  np.testing.assert_allclose(coarse, want)
  enter = stages[1].enter
  x, (_, given) = jax.eval_shape(
    lambda c: enter([c], lambda shape: jnp.zeros(shape)), coarse
  )
  assert x.shape == given['coarse'][0].shape == (1, 8, 8, 8)


def test_stage_input_mixes_noise_into_the_coarse_scale_only():
  z = [jnp.ones((1, 2, 2, 1)), jnp.full((1, 4, 4, 1), 2.0)]
  noise = [jnp.full((1, 2, 2, 1), 11.0), jnp.full((1, 4, 4, 1), 3.0)]
  alpha, sigma = jnp.array([0.8]), jnp.array([0.6])
  x = frido.stage_input(z, noise, alpha, sigma, mix_ratio=0.1)
  np.testing.assert_allclose(x[..., 0], 0.9 + 1.1, rtol=1e-6)
  np.testing.assert_allclose(x[..., 1], 0.8 * 2 + 0.6 * 3, rtol=1e-6)


@pytest.mark.parametrize('parameterization', ['eps', 'x0'])
def test_loss_is_zero_for_the_right_answer(parameterization):
  chain = schedules.make_chain()
  settings = frido.LossSettings(
    loss_type='l2',
    noise_mix_ratio=0.1,
    stage_loss_ratio=(0.5, 0.5),
    parameterization=parameterization,
  )
  zs = [jnp.ones((2, 2, 2, 1)), jnp.full((2, 4, 4, 1), 2.0)]
  noises = [[zs[0] * 3], [zs[0] * 4, zs[1] * 5]]
  answers = [n[-1] for n in noises] if parameterization == 'eps' else zs
  t = jnp.array([3, 500])

  def loss(answers):
    denoiser = lambda x, t, s: answers[s]
    return frido.diffusion_loss(denoiser, chain, settings, zs, t, noises)[0]

  assert loss(answers) == 0
  assert loss([a + 1 for a in answers]) == pytest.approx(1.0)
  with pytest.raises(ValueError, match="'noise'"):
    dataclasses.replace(settings, parameterization='noise')


@pytest.mark.turns(3, group='systems')
@pytest.mark.parametrize(
  ('parameterization', 'x0'),
  [
    ('eps', lambda x, level: x / level.alpha),
    ('x0', lambda x, level: 0 * x),
    ('v', lambda x, level: level.alpha * x),
  ],
)
def test_stages_read_what_the_network_predicts(parameterization, x0):
  config = load(diffusion__parameterization=parameterization)
  system, spec = systems.create(config), spec_lib.from_config(config)
  weights = system_weights.weights_of(system)
  unet = weights.params['generator']['unet']
  unet |= {
    f'out_{s}_2': jax.tree.map(jnp.zeros_like, unet[f'out_{s}_2'])
    for s in range(2)
  }  # a network that predicts zeros

  @jax.jit
  def both(weights):
    condition = system.condition(weights, BATCH)
    stage, _ = system.stages(weights, condition, (2, 32, 32), spec)
    segment, *_ = stage.segments
    x, context = stage.enter([], lambda shape: jnp.ones(shape))
    level = row(segment.levels, 0)
    return segment.denoise(x, level, context).x0, x0(x, level)

  got, want = both(weights)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_dropped_conditions_are_the_null_condition(native):
  system, weights = native
  always = dataclasses.replace(system, cond_dropout=1.0)
  tokens = always.training_inputs(weights, jax.random.key(0), BATCH)
  null = system.condition(weights, BATCH).null
  jax.tree.map(np.testing.assert_array_equal, tokens, null)
  never = dataclasses.replace(system, cond_dropout=0.0)
  tokens = never.training_inputs(weights, jax.random.key(0), BATCH)
  assert not np.allclose(tokens.context.values, null.context.values)
  assert not np.allclose(tokens.context.places, null.context.places)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'data__image_size': '36'}, 'image_size is 36, must be a multiple of 8'),
    ({'diffusion__stage_loss_ratio': '1.0'}, 'has 1'),
    ({'system__name': 'fridge'}, "'fridge', must be one of"),
  ],
)
def test_fields_that_do_not_fit_are_named(overrides, message):
  with pytest.raises(ValueError, match=message):
    systems.create(load(**overrides))


def test_whatever_gives_tokens_serves():
  system = systems.create(load('text,debug', condition__also='camera'))
  params, _ = jax.eval_shape(system.init, jax.random.key(0))
  assert params['generator']['condition'].keys() == {'first', 'second'}
  fields = {'condition__task': 'class', 'condition__class_by': 'adm'}
  with pytest.raises(ValueError, match="'class' .* not served by frido"):
    systems.create(load(**fields))


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'sample__steps': '5,5,5'}, 'has 3 values, must be one number or 2'),
    ({'sample__steps': '300'}, '300 sampling steps'),
    ({'sample__guidance_channels': '9'}, 'is 9, must be at most 8'),
  ],
)
def test_sampling_that_does_not_fit_is_named(overrides, message):
  config = load(**overrides)
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
    ({'windows': (4, 2)}, r'windows is \(4, 2\), must be \(0, 0\) for'),
  ],
)
def test_specs_of_other_systems_are_refused(changed, message):
  config = load()
  spec = spec_lib.from_config(config).replace(**changed)
  with pytest.raises(ValueError, match=message):
    systems.create(config).check_spec(spec)


def test_box_encoder_refuses_other_tasks():
  config = load('text,debug', condition__encoder='boxes')
  with pytest.raises(ValueError, match="'boxes' serves the task 'layout'"):
    systems.create(config)


def test_latents_are_drawn_from_a_key_of_their_own(monkeypatch):
  """What draws the latents must not draw the timesteps or the noise too."""
  system, drawn = systems.create(load()), []

  def latents(self, frozen, batch, normal):
    drawn.append(normal((4,)))
    raise InterruptedError

  monkeypatch.setattr(type(system.space), 'batch_latents', latents)
  key = jax.random.key(3)
  weights = system_lib.Weights({}, {}, {'latent_scale': jnp.ones(2)})
  with pytest.raises(InterruptedError):
    system.losses(weights, key, 1, {})
  keys = [key, *jax.random.split(key, 3)]
  for other in keys:
    assert np.abs(drawn[0] - jax.random.normal(other, (4,))).max() > 1e-3
