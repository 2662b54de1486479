import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import systems
from pyramid_jax.diffusion import iddpm_loss
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion import timesteps
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import system_weights


FILE = 'adm_imagenet.py:64,debug'
SMALLEST = {
  'data__image_size': 8,
  'network__channel_mult': '1',
  'network__attention_resolutions': '()',
}
IMAGES = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3), minval=-1)
BATCH = {'image': IMAGES, 'class': jnp.array([1, 1000])}


def load(**fields):
  return configs.load(FILE, **{**SMALLEST, **fields})


def test_the_loss_is_that_of_the_whole_chain():
  system = systems.create(load())
  weights = system_weights.weights_of(system)
  key = jax.random.key(7)
  run = jax.jit(functools.partial(system.losses, step=0))
  results, _ = run(weights, key, batch=BATCH)
  total, metrics = results['generator']

  time_key, noise_key, _, drop_key = jax.random.split(key, 4)
  tree = {'params': weights.params['generator']['unet']}
  call = lambda x, t: system.unet.apply(
    tree,
    x,
    t,
    None,
    jnp.array([0, 999]),  # classes from 0
    train=True,
    rngs={'dropout': drop_key},
  )
  terms = jax.jit(
    lambda: iddpm_loss.loss(
      call,
      timesteps.respaced_levels(schedules.make_chain('cosine', 1000)),
      iddpm_loss.LossSettings(),
      IMAGES,
      jax.random.randint(time_key, (2,), 0, 1000),
      jax.random.normal(noise_key, IMAGES.shape),
    )
  )()
  np.testing.assert_allclose(total, terms.pop('loss').mean(), rtol=1e-5)
  assert metrics.keys() == terms.keys() == {'mse', 'vb'}


@pytest.mark.parametrize('clip', [True, False])
def test_clean_predictions_stay_in_range(clip):
  system = systems.create(load(sample__clip=clip))
  denoiser = system.denoiser({'unet': {}}, 0)
  spec = spec_lib.from_config(load())
  level = levels_lib.row(system.levels(spec)[0], 0)
  x = 3.0 * IMAGES
  value = jnp.concatenate([IMAGES, 0.5 * IMAGES], axis=-1)
  found = denoiser.predict(lambda x, time: value, x, level, None)
  plain = levels_lib.Prediction.of('eps', x, value, level)
  assert np.abs(plain.x0).max() > 1
  want = np.clip(plain.x0, -1, 1) if clip else plain.x0
  np.testing.assert_allclose(found.x0, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(found.variance, 0.5 * IMAGES)
  again = level.alpha * found.x0 + level.sigma * found.eps
  np.testing.assert_allclose(again, x, rtol=1e-4, atol=1e-4)


def test_samples_are_images():
  config = load(sample__steps=2)
  system = systems.create(config)
  spec = spec_lib.from_config(config)
  system.check_spec(spec)
  images, (state,) = jax.jit(functools.partial(system_lib.generate, system))(
    system_weights.weights_of(system),
    system_lib.image_keys(0, [0, 1]),
    BATCH,
    spec,
  )
  assert images.shape == state.shape == IMAGES.shape
  assert np.isfinite(images).all()
  assert np.abs(images).max() <= 1


def test_the_network_predicts_what_the_variance_needs():
  assert systems.create(load()).unet.out_channels == 6
  fixed = systems.create(load(diffusion__variance='fixed_small'))
  assert fixed.unet.out_channels == 3
