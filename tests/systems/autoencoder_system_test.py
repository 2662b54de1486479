import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.systems import first_stage_losses


CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'msvqgan_shapes.py'
SETTINGS = first_stage_losses.VQSettings(
  perceptual_weight=0.0, disc_weight=0.5, disc_start=10
)


def toy(step):
  """A one-weight decoder and a linear discriminator, by hand."""
  image = jnp.zeros((1, 2, 2, 1))
  features = jnp.ones((1, 2, 2, 1))
  return first_stage_losses.generator_loss(
    SETTINGS,
    image,
    features,
    jnp.array([3.0]),
    lambda f, k: f * k,
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

  @jax.jit
  def gradients():
    params, extra = system.init(jax.random.key(0), batch)

    def loss(params, player):
      losses, _ = system.losses(
        params, {}, extra, jax.random.key(0), jnp.int32(5), batch
      )
      return losses[player][0]

    of = lambda player: jax.grad(loss)(params, player)
    return of('generator')['discriminator'], of('discriminator')['generator']

  for tree in gradients():
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
