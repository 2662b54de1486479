import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.conditioning import camera
from pyramid_jax.conditioning import combined as combined_lib
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoder as encoder_lib
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.networks.layers import transformer


ENCODER = camera.CameraEncoder(dim=2, cond_dropout=0.25)
PARAMS = {
  'pitch': {'embedding': {'embedding': jnp.arange(8.0).reshape(4, 2)}},
  'depth_of_field': {
    'embedding': {'embedding': 10 + jnp.arange(6.0).reshape(3, 2)}
  },
}
BATCH = {
  'pitch': jnp.array([1, 3, 0]),
  'depth_of_field': jnp.array([2, 0, 1]),
}


class Tokens:
  """A condition of one token."""

  widths = encoder_lib.Widths(context=2)

  def __init__(self, is_placed=False):
    self.is_placed = is_placed

  def encode(self, params, batch):
    values = jnp.ones((len(batch['pitch']), 1, 2)) * params
    if not self.is_placed:
      return condition_lib.Inputs(context=values)
    places = jnp.zeros((len(values), 1, 4))
    return condition_lib.Inputs(
      context=transformer.PlacedTokens(values=values, places=places)
    )

  def null(self, params, batch):
    return self.encode(0 * params, batch)


def test_every_attribute_is_a_token_and_not_known_the_last_row():
  got = ENCODER.encode(PARAMS, BATCH).context
  want = [[[0, 1], [12, 13]], [[4, 5], [14, 15]], [[6, 7], [10, 11]]]
  np.testing.assert_array_equal(got, want)
  null = ENCODER.null(PARAMS, BATCH).context
  np.testing.assert_array_equal(null, [[[6, 7], [14, 15]]] * 3)
  shapes = jax.eval_shape(ENCODER.init, jax.random.key(0))
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, PARAMS)


def test_attributes_are_dropped_independently():
  batch = {k: jnp.ones((4000,), jnp.int32) for k in BATCH} | {'x': 1}
  got = ENCODER.augmented(batch, jax.random.key(0))
  assert got['x'] == 1
  gone = np.stack([np.asarray(got[name]) == 0 for name in BATCH])
  np.testing.assert_allclose(gone.mean(1), 0.25, atol=0.03)
  np.testing.assert_allclose(gone.all(0).mean(), 0.0625, atol=0.02)


def test_tokens_of_the_camera_follow_others():
  both = combined_lib.CombinedEncoder(first=Tokens(), second=ENCODER)
  assert both.widths == encoder_lib.Widths(context=2)
  params = {'first': 5.0, 'second': PARAMS}
  got = both.encode(params, BATCH).context
  np.testing.assert_array_equal(got[1], [[5, 5], [4, 5], [14, 15]])
  np.testing.assert_array_equal(both.null(params, BATCH).context[:, 0], 0)


def test_after_placed_tokens_their_box_is_the_image():
  both = combined_lib.CombinedEncoder(
    first=Tokens(is_placed=True), second=ENCODER
  )
  got = both.encode({'first': 5.0, 'second': PARAMS}, BATCH).context
  assert got.shape == (3, 3, 2)
  np.testing.assert_array_equal(
    got.places[0], [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
  )


def _config(**condition):
  config = config_lib.base('ldm')
  for name, value in condition.items():
    config.condition[name] = value
  return config


def test_the_config_adds_the_camera_to_a_text():
  config = _config(task='text', also='camera', dim=24, camera_dropout=0.2)
  encoder = conditioning.create(config)
  assert encoder.second == camera.CameraEncoder(dim=24, cond_dropout=0.2)
  classes = _config(task='class', class_by='timestep', also='camera', dim=24)
  encoder = conditioning.create(classes)
  assert encoder.widths == encoder_lib.Widths(context=24, classes=1001)
  with pytest.raises(ValueError, match='one of class, camera, superres'):
    conditioning.create(_config(task='text', also='weather'))
