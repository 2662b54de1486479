"""What is measured on the first batch, however it is split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import systems
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import measuring
from tests.helpers import system_weights


# Of different brightness, so that no microbatch is like the whole.
IMAGES = jnp.linspace(-1, 0.8, 8)[:, None, None, None] * jax.random.uniform(
  jax.random.key(0), (8, 32, 32, 3)
)


def create(name, **overrides):
  return systems.create(configs.load(name, **overrides))


@pytest.mark.parametrize(
  ('name', 'accumulate', 'devices'),
  [
    ('frido_shapes.py:debug', 4, 1),
    ('ldm_shapes.py:none,kl,debug', 4, 2),
    ('diffit_latent_shapes.py:none,debug', 2, 1),
    ('ladm_latent_shapes.py:debug', 4, 1),
  ],
)
def test_microbatches_measure_what_the_whole_batch_does(
  name, accumulate, devices
):
  system = create(name)
  weights = system_weights.weights_of(system)
  batch = {'image': IMAGES}
  whole = measuring.measured(system, weights, batch)['latent_scale']
  assert not np.allclose(whole, 0.5)  # which it was before
  parts = measuring.measured(system, weights, batch, accumulate, devices)
  np.testing.assert_allclose(parts['latent_scale'], whole, rtol=1e-5)


def test_a_given_scale_is_kept():
  system = create('ldm_shapes.py:none,debug', diffusion__scale_by_std='false')
  weights = system_weights.weights_of(system)
  extra = measuring.measured(system, weights, {'image': IMAGES}, 4)
  np.testing.assert_array_equal(extra['latent_scale'], 0.5)


def test_a_system_that_measures_nothing():
  first_stage = create('ldm_autoencoder_shapes.py:debug')
  assert not isinstance(first_stage, system_lib.Measuring)
  system = create('diffit_shapes.py:debug')
  weights = system_weights.weights_of(system)
  assert measuring.measured(system, weights, {'image': IMAGES}) == weights.extra
