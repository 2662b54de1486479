"""LaDM in latents, with one DiffiT for all stages."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import laplacian_loss
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.levels import row
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import system_weights


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
B, SIDE = 2, 32
BATCH = {
  'image': jax.random.uniform(jax.random.key(5), (B, SIDE, SIDE, 3)) * 2 - 1,
  'class': jnp.array([3, 24]),
}
LATENTS = {
  'latent_mean_0': jax.random.normal(jax.random.key(6), (B, 8, 8, 4)),
  'class': BATCH['class'],
}


def load(**overrides):
  return configs.load('ladm_latent_shapes.py:class,known,debug', **overrides)


def build(**overrides):
  return systems.create(load(**overrides))


@pytest.fixture(scope='module')
def told():
  """A system whose fine stage depends on the coarse image, and weights."""
  system = build(condition__cond_dropout='0.0')
  filled = system_weights.weights_of(system)
  extra = {'process': system.fingerprint(), 'latent_scale': jnp.full((1,), 2.0)}
  return system, system_lib.Weights(filled.params, filled.frozen, extra)


def test_the_fine_stage_is_told_the_noisy_clean_image_in_training(told):
  system, weights = told
  key = jax.random.key(0)

  @jax.jit
  def both(w):
    losses, extra = system.losses(w, key, 1, LATENTS)
    return losses['generator'], extra, fine(w)

  # The loss of the finest stage from its parts, on the draws of the system.
  def fine(w):
    rest = jax.random.split(key, 3)[2]
    clean = 2.0 * LATENTS['latent_mean_0']
    keys = jax.random.split(jax.random.fold_in(rest, 1), 3)
    coarse = laplacian.down(clean[1:])
    eps = jax.random.normal(jax.random.fold_in(keys[1], 1), coarse.shape)
    network = system.networks.of_stage(1)
    return laplacian_loss.loss(
      lambda x, t: network.apply(
        {'params': w.params['generator']['networks']['shared']},
        x,
        t,
        condition_lib.Inputs(y=BATCH['class'][1:] - 1),
        coarse=gaussian.mix_noise(coarse, eps, 0.1),
      ),
      system.precond(1),
      clean[1:],
      system.noise_distribution.draw(keys[0], system.process, 1, 1),
      jax.random.normal(keys[1], clean[1:].shape),
    )[0]

  (total, metrics), extra, want = both(weights)
  np.testing.assert_allclose(metrics['loss_stage_1'], want, rtol=1e-4)
  shares = system.noise_distribution.shares(system.process)
  np.testing.assert_allclose(
    total,
    shares[0] * metrics['loss_stage_1'] + shares[1] * metrics['loss_stage_2'],
    rtol=1e-5,
  )
  assert extra['latent_scale'] == 2.0


def test_the_fine_stage_is_told_the_coarse_prediction_in_sampling(told):
  system, weights = told
  spec = spec_lib.from_config(load())
  normal = lambda shape: jax.random.normal(jax.random.key(3), shape)
  state = jax.random.normal(jax.random.key(4), (B, 4, 4, 8))

  @jax.jit
  def predict(weights, state, cached):
    condition = system.condition(weights, BATCH)
    found = []
    network = system.denoiser(system.generator(weights), 1)
    levels, shape = system.levels(spec)[1], (B, SIDE, SIDE)
    for each in (True, False):
      stage = dataclasses.replace(network, cached=each).guided(
        levels,
        condition,
        system.state_shape(shape, 1),
        spec.guidance_of(1),
      )
      (segment,) = stage.segments
      x, context = stage.enter([state], normal)
      level = row(segment.levels, 0)
      found.append(segment.denoise(x, level, context).x0)
    return jnp.where(cached, *found), x

  want, x = predict(weights, state, True)
  plain, _ = predict(weights, state, False)
  np.testing.assert_allclose(plain, want, atol=1e-4 * np.abs(want).max())
  other, same = predict(weights, state.at[..., 4:].add(1.0), True)
  np.testing.assert_array_equal(same, x)
  assert np.abs(other - want).max() > 1e-3 * np.abs(want).max()


def test_from_noise_to_an_image_and_from_an_image(told):
  system, weights = told
  spec = spec_lib.from_config(load())
  assert spec.guidance is not None
  solver = spec.make_solver()

  @jax.jit
  def run(weights, keys):
    condition = system.condition(weights, BATCH)
    stages = system.stages(weights, condition, (B, SIDE, SIDE), spec)
    noise = sampling.Noise.from_keys(keys)
    whole = sampling.run(stages, solver, noise)
    edit = system_lib.Edit(BATCH['image'], None, 0.5)
    stages = system.edited(weights, stages, edit)
    near = sampling.run(stages, solver, noise)
    _, ((_, told), _) = stages[0].enter([], noise.start(0))
    coarse = system.states(weights, BATCH['image'])[0]
    images = [system.decode(weights, whole[: i + 1]) for i in range(2)]
    return whole, near, images, told['coarse'], coarse

  keys = jax.random.split(jax.random.key(0), B)
  whole, near, images, known, coarse = run(weights, keys)
  assert [z.shape for z in whole] == [(B, 4, 4, 8), (B, 8, 8, 8)]
  assert [z.shape for z in near] == [(B, 8, 8, 8)]
  assert [image.shape[1] for image in images] == [16, 32]
  # A run that begins in the fine stage finds the picture as the coarse result.
  for half in classifier_free.unpair(known):
    np.testing.assert_allclose(half, coarse, atol=1e-5)
  assert all(np.isfinite(image).all() for image in images)


def test_stages_may_have_networks_of_their_own():
  system = build(laplacian__shared='False', laplacian__self_context='False')
  params = jax.eval_shape(lambda: system.init(jax.random.key(0))[0])
  trees = params['generator']['networks']
  assert set(trees) == {'stage_1', 'stage_2'}
  tables = [
    next(n for n in tree['blocks']['attn'] if n.startswith('relative'))
    for tree in trees.values()
  ]
  assert sorted(tables) == [
    'relative_position_bias_table_4',
    'relative_position_bias_table_8',
  ]
  assert system.networks.cells == (1, 1)
  packets = build(laplacian__wavelets='(0, 1)')
  assert packets.networks.modules[0].stage_sides == [4, 4]
  assert packets.networks.modules[0].stage_in == [4, 16]
  assert packets.networks.cells == (1, 2)
  assert build(network__patch_size='2').networks.cells == (2, 2)


def test_its_latents_can_be_computed_beforehand():
  assert 'first_stage' in build().pretrained_parts()
  pixels = config_lib.load(f'{CONFIGS}/ladm_shapes.py:class,debug')
  assert 'first_stage' not in systems.create(pixels).pretrained_parts()


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'laplacian__shared': 'False'}, 'self_context is True, so .*shared must'),
    ({'data__buckets': '16'}, "buckets is 16, must be 0 for .*'diffit'"),
    ({'network__patch_size': '3'}, r'patch_size = 3 must divide .* \(4, 8\)'),
  ],
)
def test_what_does_not_fit_is_refused(overrides, message):
  with pytest.raises(ValueError, match=message):
    build(**overrides)


def test_unets_have_no_gates():
  config = config_lib.load(f'{CONFIGS}/ladm_shapes.py:class,debug')
  config.laplacian.self_context = True
  with pytest.raises(ValueError, match="must be False for .*'unet'"):
    systems.create(config)
