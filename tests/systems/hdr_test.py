"""The system that predicts what white hides."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pyramid_jax import systems
from pyramid_jax.networks.layers import tone_curves
from pyramid_jax.systems import hdr
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import system_weights


SIDE = 16


def create(**fields):
  return systems.create(
    configs.load('hdr.py:debug', data__image_size=SIDE, **fields)
  )


@pytest.fixture(scope='module')
def system():
  return create()


def weights_of(system, fill=False):
  params, extra = system_weights.initial_values(system)
  if fill:
    params = system_weights.fill(params)
  return system_lib.Weights(params=params, frozen={}, extra=extra)


def on_curve(light):
  """An image of the curve, in [-1, 1]."""
  return 2.0 * tone_curves.encoded(jnp.asarray(light)) - 1.0


def lamps():
  """Grey images with a patch of light of 4 and 16 times white."""
  light = np.full((2, SIDE, SIDE, 3), 0.2, np.float32)
  light[0, 4:8, 4:8], light[1, 8:14, 2:6] = 4.0, 16.0
  return jnp.asarray(light)


def test_what_is_not_white_stays(system):
  weights = weights_of(system, fill=True)
  light = lamps()
  image = hdr.clipped(light)
  found = np.asarray(system.radiance(weights, image))
  dark = np.asarray(light) < 1
  np.testing.assert_allclose(found[dark], 0.2, rtol=0.02)  # of 8 bits
  assert np.abs(found[~dark] - 1.0).max() > 0.1  # where weights decide
  made, codes = system.reconstruct(weights, on_curve(light))
  want = tone_curves.encoded(jnp.asarray(found))
  np.testing.assert_allclose((made + 1) / 2, want, atol=1e-5)
  assert codes == []


def test_saturated_pixels_are_those_near_white():
  image = jnp.array([[[[0.2, 0.95, 0.1], [1.0, 0.0, 0.0], [0.975, 0.9, 0]]]])
  share = hdr.saturated(image)[0, 0, :, 0]
  np.testing.assert_allclose(share, [0, 1, 0.5], atol=1e-5)
  assert float(hdr.clipped(jnp.float32(3.0))) == 1


@pytest.mark.turns(3, group='systems')
def test_it_learns_the_light_of_lamps(system):
  weights = weights_of(system)
  batch = {'image': on_curve(lamps())}
  optimizer = optax.adam(3e-3)

  def loss(params):
    own = system_lib.Weights(params=params, frozen={}, extra={})
    key = jax.random.key(0)  # the same exposures in every step
    losses, _ = system.losses(own, key, jnp.int32(0), batch)
    return losses['generator'][0]

  @jax.jit
  def step(params, state):
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value

  params, state = weights.params, optimizer.init(weights.params)
  values = []
  for _ in range(30):
    params, state, value = step(params, state)
    values.append(float(value))
  assert values[-1] < 0.3 * values[0]


def test_images_of_other_data_are_refused():
  with pytest.raises(ValueError, match="'shapes', must be 'hdr' for hdr"):
    create(data__name='shapes')
  with pytest.raises(ValueError, match='must be rising'):
    create(hdr__exposure='4,1')
