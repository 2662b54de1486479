import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.levels import Prediction
from pyramid_jax.distributed import initial
from pyramid_jax.systems import flow
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import system_weights


B = 2
BATCH = {
  'image': jnp.zeros((B, 32, 32, 3)).at[:, 8:24, 8:24].set(0.7),
  'class': jnp.array([3, 7]),
}
MEAN, STD = 1.5, 0.5


def load(variants='pixels,debug', **fields):
  config = configs.load(f'flow_shapes.py:{variants}', **fields)
  config_lib.validate(config)
  return config


@functools.cache
def built():
  """The system on pixels and weights whose last layer is not zero."""
  system = systems.create(load())
  params, extra = system_weights.initial_values(system)
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  moved = [
    x + 0.05 * jax.random.normal(k, x.shape)
    for x, k in zip(leaves, keys, strict=True)
  ]
  params = jax.tree.unflatten(tree, moved)
  return system, system_lib.Weights(params=params, frozen={}, extra=extra)


def gaussian_velocity(x, t):
  """E[eps - x0 | x_t] of normal data, in closed form."""
  alpha, sigma = 1.0 - t, t
  variance = (alpha * STD) ** 2 + sigma**2
  x0 = MEAN + alpha * STD**2 / variance * (x - alpha * MEAN)
  eps = sigma / variance * (x - alpha * MEAN)
  return eps - x0


def sample_gaussian(name, steps, count=256):
  levels = flow.make_levels(steps)
  shape = (count, 4, 4, 1)

  def denoise(x, level, context, first=True):
    v = gaussian_velocity(x, level.sigma)
    return Prediction(x0=x - level.sigma * v, eps=x + level.alpha * v)

  stage = sampling.Stage(
    segments=(sampling.Segment(levels=levels, denoise=denoise),),
    enter=lambda state, normal: (normal(shape), None),
    leave=lambda state, x, x0, context: [x],
  )
  noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(0), count))
  run = functools.partial(sampling.run, [stage], solvers.create(name))
  return np.asarray(jax.jit(run)(noise)[0])


@pytest.mark.parametrize('name', flow.SOLVERS)
def test_the_flow_of_normal_data_leads_to_it(name):
  x = sample_gaussian(name, 64)
  assert x.mean() == pytest.approx(MEAN, abs=0.05)
  assert x.std() == pytest.approx(STD, rel=0.06)


def test_heun_is_nearer_than_euler_at_equal_calls():
  exact = sample_gaussian('heun', 256)
  error = lambda name, steps: np.abs(sample_gaussian(name, steps) - exact).max()
  assert error('heun', 8) < 0.5 * error('euler', 16)


def test_an_euler_step_follows_the_velocity():
  levels = flow.make_levels(4)
  np.testing.assert_allclose(levels.sigma, [1, 0.75, 0.5, 0.25, 0])
  np.testing.assert_allclose(levels.time[:2], [1000, 750])
  x, v = jax.random.normal(jax.random.key(0), (2, 1, 2, 2, 1))
  level, ahead = (
    jax.tree.map(lambda a, i=i: jnp.asarray(a)[i], levels) for i in (1, 2)
  )
  prediction = Prediction(x0=x - 0.75 * v, eps=x + 0.25 * v)
  solver = solvers.create('euler')
  inputs = solvers.base.StepInputs(
    lambda x, level, first: prediction, level, ahead, lambda: x
  )
  carry = solver.step(solver.start(x, levels), inputs)
  np.testing.assert_allclose(carry.x, x - 0.25 * v, rtol=1e-5, atol=1e-6)


@pytest.mark.turns(3, group='systems')
def test_the_loss_is_that_of_the_velocity():
  system, weights = built()
  key = jax.random.key(5)
  losses, extra = jax.jit(
    lambda: system.losses(weights, key, jnp.int32(3), BATCH)
  )()
  assert extra == {}
  _, time_key, noise_key, _, _ = jax.random.split(key, 5)
  t = system.times.draw(time_key, B)
  eps = jax.random.normal(noise_key, BATCH['image'].shape)
  place = t[:, None, None, None]
  x = (1 - place) * BATCH['image'] + place * eps
  value, _ = losses['generator']

  # By hand, without dropped conditions.
  kept = systems.create(load(condition__cond_dropout='0.0'))

  @jax.jit
  def both(weights, x, t):
    losses, _ = kept.losses(weights, key, jnp.int32(3), BATCH)
    inputs = system.encoder.encode(
      system.encoder.weights(weights.params['generator'], {}), BATCH
    )
    variables = {'params': weights.params['generator']['unet']}
    return losses, flow.ldm.predict(kept.unet, variables, x, 1000 * t, inputs)

  losses, velocity = both(weights, x, t)
  want = jnp.square(velocity - (eps - BATCH['image'])).mean()
  np.testing.assert_allclose(losses['generator'][0], want, rtol=1e-5)
  assert np.isfinite(value)


def test_times_of_training():
  draw = lambda **fields: flow.Times(**fields).draw(jax.random.key(0), 4000)
  uniform = draw(kind='uniform', mean=0.0, std=1.0)
  assert abs(float(uniform.mean()) - 0.5) < 0.02
  noisy = draw(kind='logit_normal', mean=1.0, std=0.5)
  assert 0 < float(noisy.min()) < float(noisy.max()) < 1
  logit = jnp.log(noisy) - jnp.log1p(-noisy)
  assert float(logit.mean()) == pytest.approx(1.0, abs=0.03)
  assert float(logit.std()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.turns(3, group='systems')
@pytest.mark.parametrize('solver', ['heun', 'dpmpp_2m'])
def test_samples_edits_and_guidance(solver):
  system, weights = built()
  spec = spec_lib.from_config(load(sample__solver=solver))
  keys = system_lib.image_keys(0, np.arange(B))

  @jax.jit
  def sample(spec, edit=None):
    return system_lib.generate(system, weights, keys, BATCH, spec, edit)[0]

  image = sample(spec)
  assert image.shape == (B, 32, 32, 3)
  assert np.isfinite(image).all()
  stronger = sample(spec.replace(guidance=spec.guidance.replace(scale=6.0)))
  assert np.abs(image - stronger).max() > 1e-3
  near = sample(spec, system_lib.Edit(BATCH['image'], None, 0.25))
  far = sample(spec, system_lib.Edit(BATCH['image'], None, 1.0))
  distance = lambda x: np.abs(x - BATCH['image']).mean()
  assert distance(near) < distance(far)


@pytest.mark.turns(3, group='systems')
@pytest.mark.slow
def test_latents_of_a_first_stage():
  system = systems.create(load('latents,debug'))
  assert system.has_latents
  key = jax.random.key(0)
  params, extra = system_weights.initial_values(system)
  frozen = {
    name: initial.evaluate(part.init, key)
    for name, part in system.pretrained_parts().items()
  }
  weights = system_lib.Weights(params=params, frozen=frozen, extra=extra)
  spec = spec_lib.from_config(load('latents,debug'))
  keys = system_lib.image_keys(0, np.arange(B))
  image, (state,) = jax.jit(
    lambda w: system_lib.generate(system, w, keys, BATCH, spec)
  )(weights)
  assert state.shape == (B, 8, 8, 4)
  assert image.shape == (B, 32, 32, 3)
  losses, _ = jax.jit(lambda w: system.losses(w, key, jnp.int32(1), BATCH))(
    weights
  )
  assert np.isfinite(losses['generator'][0])


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'sample__solver': 'plms'}, "'plms', must be one of euler, heun"),
    ({'sample__spacing': 'karras'}, "spacing is 'karras', must be 'auto'"),
    ({'sample__steps': '5,5'}, 'has 2 values, must be one number'),
  ],
)
def test_what_a_flow_cannot_sample_is_named(fields, message):
  system, _ = built()
  with pytest.raises(ValueError, match=message):
    system.check_spec(spec_lib.from_config(load(**fields)))


def test_fields_of_others_are_unknown():
  with pytest.raises(errors.UserError, match='timesteps: there is no such'):
    load(diffusion__timesteps='100')
