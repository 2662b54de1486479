import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.conditioning import encoder as encoder_lib
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.conditioning import low_resolution
from pyramid_jax.diffusion import laplacian


ENCODER = low_resolution.NoisyImageEncoder(side=4, factor=2, levels=2)
SMALL = jnp.linspace(-1, 1, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)


def test_training_draws_deviations_evenly_in_their_logarithm():
  batch = {'lr_image': jnp.zeros((4000, 4, 4, 3)), 'x': 1}
  got = ENCODER.augmented(batch, jax.random.key(0))
  assert got['x'] == 1
  log = np.log(got['lr_deviation'])
  edges = np.linspace(np.log(0.01), np.log(0.5), 5)
  share, _ = np.histogram(log, edges)
  np.testing.assert_allclose(share / 4000, 0.25, atol=0.03)
  np.testing.assert_allclose(got['lr_noise'].std(), 1, atol=0.01)
  assert len(np.unique(got['lr_noise'])) > 100_000


def test_noise_is_added_before_the_image_is_enlarged():
  noise = jnp.zeros_like(SMALL).at[0, 1, 2].set(1.0)
  batch = {
    'lr_image': SMALL,
    'lr_noise': noise,
    'lr_deviation': jnp.array([0.5, 0.1]),
  }
  got = ENCODER.encode({}, batch)
  assert got.concat.shape == (2, 8, 8, 3)
  np.testing.assert_allclose(got.concat_noise, np.log([0.5, 0.1]), rtol=1e-6)
  clean = ENCODER.encode({}, batch | {'lr_noise': 0 * noise}).concat
  effect = np.asarray(got.concat - clean)
  cells = effect.reshape(2, 4, 2, 4, 2, 3).mean((2, 4))
  np.testing.assert_allclose(cells[0], 0.5 * noise[0], atol=1e-6)
  assert np.abs(effect[0, 1, 4]).max() > 0.01  # the next pixel's, too
  np.testing.assert_allclose(effect[1], 0, atol=1e-6)


def test_enlarging_is_bicubic_and_keeps_what_was_given():
  image = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3))
  small = image.astype(np.uint8)
  got = low_resolution.enlarged(jnp.float32(small), 4)
  cells = got.reshape(1, 8, 4, 8, 4, 3).mean((2, 4))
  np.testing.assert_allclose(cells, small, atol=1e-3)
  cubic = np.asarray(
    PIL.Image.fromarray(small[0]).resize((32, 32), PIL.Image.Resampling.BICUBIC)
  )
  missing = small[0] - cubic.reshape(8, 4, 8, 4, 3).mean((1, 3))
  wanted = cubic + missing.repeat(4, 0).repeat(4, 1)
  # Pillow rounds, and cuts at black and white.
  inside = (cubic > 0) & (cubic < 255)
  assert np.abs(np.asarray(got[0]) - wanted)[inside].max() < 12
  assert np.abs(np.asarray(got[0]) - wanted)[inside].mean() < 1


def test_noise_of_the_small_image_is_the_power_that_the_prior_gives():
  noise = jax.random.normal(jax.random.key(0), (64, 16, 16, 3))
  batch = {
    'lr_image': jnp.zeros_like(noise),
    'lr_noise': noise,
    'lr_deviation': jnp.full((64,), 0.3),
  }
  encoder = low_resolution.NoisyImageEncoder(side=16, factor=4, levels=3)
  prior = encoder.encode({}, batch).prior
  assert prior.power.shape == (64, 3)
  parts = laplacian.bands(prior.mean, 3)
  measured = [float(jnp.square(part).mean()) for part in parts]
  np.testing.assert_allclose(prior.power[0], measured, rtol=0.05)
  np.testing.assert_allclose(prior.power[0, -1], 0.09, rtol=1e-5)


def test_sampling_takes_one_deviation_and_always_the_same_noise():
  batch = {'lr_image': SMALL}
  got = ENCODER.encode({}, batch)
  np.testing.assert_allclose(got.concat_noise, np.log(0.1), rtol=1e-6)
  again = ENCODER.null({}, batch)
  np.testing.assert_array_equal(got.concat, again.concat)
  silent = batch | {
    'lr_noise': jnp.zeros_like(SMALL),
    'lr_deviation': jnp.full((2,), 0.1),
  }
  noise = np.asarray(got.concat - ENCODER.encode({}, silent).concat)
  cells = noise.reshape(2, 4, 2, 4, 2, 3).mean((2, 4))
  assert 0.07 < cells.std() < 0.13


def test_another_size_is_refused():
  with pytest.raises(ValueError, match=r'\(2, 4, 2, 3\), must be \(2, 4, 4, 3'):
    ENCODER.encode({}, {'lr_image': SMALL[:, :, :2]})


def test_training_and_guidance_keep_the_image():
  config = config_lib.base('ladm')
  config.data.image_size, config.data.lr_factor = 8, 2
  config.condition.task, config.condition.also = 'class', 'superres'
  config.condition.class_by, config.condition.num_classes = 'timestep', 4
  config.condition.lr_noise_high = 0.25
  encoder = conditioning.create(config)
  assert encoder.widths == encoder_lib.Widths(concat=3, classes=5)
  assert encoder.second == low_resolution.NoisyImageEncoder(
    side=4, factor=2, levels=3, high=0.25
  )
  batch = {'lr_image': SMALL, 'class': jnp.array([1, 2])}
  given = [
    conditioning.training_context(
      encoder, {}, {}, drop, jax.random.key(0), batch
    )
    for drop in (0.0, 1.0)
  ]
  np.testing.assert_array_equal(given[0].y, [0, 1])
  np.testing.assert_array_equal(given[1].y, [4, 4])
  np.testing.assert_array_equal(given[0].concat, given[1].concat)
  assert not np.allclose(given[0].concat_noise, np.log(0.1))
  condition = conditioning.condition(
    encoder, {'first': {}, 'second': {}}, batch
  )
  np.testing.assert_array_equal(condition.context.concat, condition.null.concat)


def test_what_does_not_go_together():
  config = config_lib.base('ladm')
  config.data.image_size = 10
  config.condition.task = 'superres'
  with pytest.raises(ValueError, match=r'is 10, must be .*lr_factor = 4'):
    conditioning.create(config)
  config.condition.also = 'superres'
  config.data.image_size = 8
  with pytest.raises(ValueError, match="also is 'superres', must be"):
    conditioning.create(config)
