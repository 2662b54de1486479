import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.distributed import initial
from pyramid_jax.interop import parts
from pyramid_jax.systems import first_stage_losses
from pyramid_jax.systems import system as system_lib


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
CONFIG = CONFIGS / 'msvqgan_shapes.py'
_KEY = jax.random.key(0)
SETTINGS = first_stage_losses.VQSettings(
  perceptual_weight=0.0, disc_weight=0.5, disc_start=10
)


def last_convolution(shape):
  """Multiplies ones by 3."""
  return first_stage_losses.LastConvolution(
    features=jnp.ones(shape),
    kernel=jnp.array([3.0]),
    apply=lambda features, kernel: features * kernel,
  )


def toy(step):
  """A one-weight decoder and a linear discriminator, by hand."""
  image = jnp.zeros((1, 2, 2, 1))
  return first_stage_losses.generator_loss(
    SETTINGS,
    image,
    last_convolution(image.shape),
    lambda x, y: jnp.zeros(1),
    lambda x: -4.0 * x,
    jnp.array(0.25),
    jnp.int32(step),
  )


def test_adversarial_term_waits_for_its_start():
  loss, metrics = toy(9)
  np.testing.assert_allclose(loss, 3.0 + 0.25)
  # |d nll / dk| = 1 and |d g / dk| = 4.
  np.testing.assert_allclose(metrics['d_weight'], 0.5 / 4.0001, rtol=1e-5)
  loss, metrics = toy(10)
  np.testing.assert_allclose(metrics['g_loss'], 12.0)
  np.testing.assert_allclose(loss, 3.25 + 0.5 / 4.0001 * 12, rtol=1e-5)


@pytest.mark.parametrize(('kind', 'expected'), [('l1', 2.0), ('l2', 4.0)])
def test_pixel_losses(kind, expected):
  image, wrong = jnp.ones((1, 2, 2, 3)), jnp.full((1, 2, 2, 3), 3.0)
  nothing = lambda x, y: jnp.zeros(1)
  loss, _, _ = first_stage_losses.reconstruction_loss(
    image, wrong, nothing, 1.0, pixel_loss=kind
  )
  assert loss == expected


@pytest.mark.parametrize('network', ['kl', 'vq'])
def test_the_pixel_loss_of_a_config(network):
  config = config_lib.load(
    f'{CONFIGS}/ldm_autoencoder_shapes.py:{network},debug'
  )
  assert systems.create(config).settings.pixel_loss == 'l2'
  config_lib.override(config, {'loss.pixel_loss': 'l1'})
  assert systems.create(config).settings.pixel_loss == 'l1'


def test_adaptive_weight_is_clipped():
  weight = first_stage_losses.adaptive_weight(jnp.ones(4) * 1e6, jnp.zeros(4))
  np.testing.assert_allclose(weight, 1e4)


@pytest.mark.parametrize(
  ('kind', 'expected'), [('hinge', 0.5 * (0.5 + 2)), ('vanilla', None)]
)
def test_discriminator_losses(kind, expected):
  settings = first_stage_losses.VQSettings(disc_loss=kind)
  real, fake = jnp.array([0.5]), jnp.array([1.0])
  loss, _ = first_stage_losses.discriminator_loss(
    settings, real, fake, jnp.int32(0)
  )
  if expected is None:
    expected = 0.5 * (np.log1p(np.exp(-0.5)) + np.log1p(np.exp(1.0)))
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_players_do_not_move_each_other():
  config = config_lib.load(f'{CONFIG}:debug')
  system = systems.create(config)
  batch = {'image': jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))}

  params, extra = initial.evaluate(system.init, jax.random.key(0))

  @jax.jit
  def gradients(params):
    def loss(params, loss_name):
      weights = system_lib.Weights(params, {}, extra)
      losses, _ = system.losses(weights, jax.random.key(0), jnp.int32(5), batch)
      return losses[loss_name][0]

    of = lambda loss_name: jax.grad(loss)(params, loss_name)
    return of('generator')['discriminator'], of('discriminator')['generator']

  for tree in gradients(params):
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(tree))


def test_bad_fields_are_named():
  config = config_lib.load(f'{CONFIG}:debug')
  config_lib.override(config, {'loss.perceptual': 'vgg'})
  with pytest.raises(ValueError, match="'vgg', must be one of lpips"):
    systems.create(config)
  config = config_lib.load(f'{CONFIG}:debug')
  config_lib.override(config, {'data.image_size': '20'})
  with pytest.raises(ValueError, match='20, must be a multiple of 8'):
    systems.create(config)
  with pytest.raises(ValueError, match="'wgan'"):
    first_stage_losses.VQSettings(disc_loss='wgan')


KL = first_stage_losses.KLSettings(
  perceptual_weight=2.0, disc_weight=0.5, disc_start=10, kl_weight=0.5
)


def toy_kl(settings, step, logvar):
  """As `toy`, with two divergences and a perceptual distance of 1.5."""
  image = jnp.zeros((2, 2, 3, 1))
  return first_stage_losses.generator_loss(
    settings,
    image,
    last_convolution(image.shape),
    lambda x, y: jnp.full(2, 1.5),
    lambda x: -4.0 * x,
    jnp.array([2.0, 6.0]),
    jnp.int32(step),
    logvar,
  )


def test_kl_losses_are_sums_over_an_image():
  logvar = np.log(4)
  loss, metrics = toy_kl(KL, 0, logvar)
  # Six values, each 3 + 2 * 1.5; the divergences are averaged over examples.
  nll = 6 * (6.0 / 4 + logvar)
  np.testing.assert_allclose(metrics['nll_loss'], nll, rtol=1e-6)
  np.testing.assert_allclose(metrics['rec_loss'], 6.0)
  np.testing.assert_allclose(metrics['kl_loss'], 4.0)
  np.testing.assert_allclose(loss, nll + 0.5 * 4.0, rtol=1e-6)
  # |d nll / dk| = 6 / 4 and |d g / dk| = 4.
  weight = 0.5 * 1.5 / 4.0001
  np.testing.assert_allclose(metrics['d_weight'], weight, rtol=1e-5)
  later, _ = toy_kl(KL, 10, logvar)
  np.testing.assert_allclose(later - loss, weight * 12, rtol=1e-5)


def test_kl_losses_without_the_game():
  settings = dataclasses.replace(KL, disc_factor=0.0)
  loss, metrics = toy_kl(settings, 10, 0.0)
  assert metrics['d_weight'] == 0
  np.testing.assert_allclose(loss, 6 * 6.0 + 2.0, rtol=1e-6)


def ldm(variant='kl', **fields):
  config = config_lib.load(f'{CONFIGS}/ldm_autoencoder_shapes.py:{variant}')
  config_lib.override(config, {'data.image_size': '16', **fields})
  return systems.create(config)


IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype('f')


@pytest.fixture(scope='module', params=['kl', 'vq'])
def system(request):
  """A system, its state and its losses as a function of key and step."""
  system = ldm(f'{request.param},debug')
  params, extra = initial.evaluate(system.init, jax.random.key(0))

  weights = system_lib.Weights(params, {}, extra)

  @jax.jit
  def losses(key, step):
    return system.losses(weights, key, step, {'image': IMAGES})[0]

  return system, weights, losses


def test_only_drawn_latents_depend_on_the_key(system):
  system, _, losses = system
  first, again, other = (
    losses(jax.random.key(seed), jnp.int32(0))['generator'][0]
    for seed in (0, 0, 1)
  )
  assert first == again
  assert (first == other) == (
    not isinstance(system.settings, first_stage_losses.KLSettings)
  )


def test_metrics_of_the_latent(system):
  system, _, losses = system
  _, metrics = losses(jax.random.key(0), jnp.int32(0))['generator']
  if isinstance(system.settings, first_stage_losses.KLSettings):
    assert 0.05 < metrics['latent_std'] < 5
    assert metrics['kl_loss'] > 0
    assert 'quant_loss' not in metrics
  else:
    assert 1 <= metrics['perplexity_0'] <= 32
    assert metrics['quant_loss'] > 0
    assert 'kl_loss' not in metrics


def test_reconstructions_use_the_mean(system):
  system, weights, _ = system
  images, codes = system.reconstruct(weights, IMAGES)
  params = {'params': weights.params['generator']}
  zs = system.model.apply(params, IMAGES, method='encode')
  decoded = system.model.apply(params, zs, method='decode')
  want = np.clip(decoded, -1.0, 1.0)
  np.testing.assert_allclose(images, want, atol=1e-5)
  scales = len(system.model.codebook_sizes)
  assert [c.shape for c in codes] == [(2, 4, 4)] * scales
  assert np.abs(images).max() <= 1


def test_what_is_known_of_a_network():
  kl, vq = ldm('kl,debug').model, ldm('vq,debug').model
  for model in (kl, vq):
    assert model.factor == model.coarsest_factor == 4
    assert model.latent_channels == (4,)
  assert (kl.codebook_sizes, vq.codebook_sizes) == ((), (32,))
  assert (kl.is_stochastic, vq.is_stochastic) == (True, False)
  frido = systems.create(config_lib.load(f'{CONFIG}:debug')).model
  assert frido.coarsest_factor == 2 * frido.factor
  assert frido.latent_channels == (8, 8)
  assert frido.codebook_sizes == (32, 32)
  assert not frido.is_stochastic
  for model in (kl, vq, frido):
    assert model.family in parts.FAMILIES


def test_a_trained_log_variance_is_a_player_of_its_own():
  system = ldm('kl,debug', **{'loss.train_logvar': 'true'})
  system = dataclasses.replace(system, logvar=0.5, discriminator=None)
  params, extra = jax.eval_shape(system.init, _KEY)
  assert params.keys() == {'generator', 'logvar'}

  params, _ = initial.evaluate(system.init, _KEY)

  @jax.jit
  def losses(value):
    def of(loss_name, params):
      weights = system_lib.Weights(params, {}, {})
      batch = {'image': IMAGES}
      return system.losses(weights, _KEY, jnp.int32(0), batch)[0][loss_name]

    at = lambda value: params | {'logvar': {'value': value}}
    gradient = jax.grad(lambda p: of('logvar', p)[0])(at(value))
    crossed = jax.grad(lambda v: of('generator', at(v))[0])(value)
    return of('generator', at(value)), gradient, crossed

  (_, metrics), gradient, crossed = losses(jnp.float32(0.5))
  rec = metrics['rec_loss']
  size = 16 * 16 * 3
  np.testing.assert_allclose(
    gradient['logvar']['value'], size * (1 - rec * np.exp(-0.5)), rtol=1e-4
  )
  assert not any(np.any(g) for g in jax.tree.leaves(gradient['generator']))
  assert crossed == 0
  # Without training it is the constant of the config, and no parameter.
  fixed = ldm('kl,debug', **{'loss.logvar_init': '0.5'})
  assert fixed.logvar == 0.5
  params, _ = jax.eval_shape(fixed.init, _KEY)
  assert 'logvar' not in params


def test_an_unknown_network_is_named():
  with pytest.raises(ValueError, match="'gumbel', must be one of msvqgan, kl"):
    ldm('kl', **{'system.network': 'gumbel'})


def test_frido_needs_several_scales():
  config = config_lib.load(f'{CONFIGS}/frido_shapes.py:debug')
  config_lib.override(config, {'first_stage.system.network': 'kl'})
  with config.unlocked():
    config.first_stage.network = ldm_network('kl')
  with pytest.raises(ValueError, match="is 'kl', must be 'msvqgan' for frido"):
    systems.create(config)


def ldm_network(variant):
  path = f'{CONFIGS}/ldm_autoencoder_shapes.py:{variant},debug'
  return config_lib.load(path).network
