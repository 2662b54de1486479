import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.conditioning import encoders
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.conditioning import image_encoders as picture_encoders
from pyramid_jax.distributed import initial
from pyramid_jax.networks import conditioners
from pyramid_jax.networks import t5


TABLE = {'embedding': {'embedding': jnp.arange(8.0).reshape(4, 2)}}


class FirstStage:
  """Takes every fourth pixel for a latent."""

  latent_channels = (3,)

  def apply(self, variables, image, method):
    assert method == 'encode'
    return [variables['params'] * image[:, ::4, ::4]]


def test_classes_count_from_one_and_none_is_the_last_row():
  encoder = encoders.ClassEncoder(classes=3, has_null=True, dim=2)
  batch = {'class': jnp.array([1, 3, 0])}
  got = encoder.encode(TABLE, batch).context
  np.testing.assert_array_equal(got, [[[0, 1]], [[4, 5]], [[6, 7]]])
  null = encoder.null(TABLE, batch).context
  np.testing.assert_array_equal(null, [[[6, 7]]] * 3)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0))
  assert shapes['embedding']['embedding'].shape == (4, 2)


def test_classes_as_ids_have_no_weights():
  encoder = encoders.ClassEncoder(classes=3, has_null=True, dim=0)
  batch = {'class': jnp.array([1, 3])}
  assert encoder.init(jax.random.key(0)) == {}
  np.testing.assert_array_equal(encoder.encode({}, batch).y, [0, 2])
  np.testing.assert_array_equal(encoder.null({}, batch).y, [3, 3])


def test_without_a_row_for_none_there_is_no_null():
  encoder = encoders.ClassEncoder(classes=4, has_null=False, dim=2)
  batch = {'class': jnp.array([4])}
  assert encoder.rows == 4
  assert encoder.null(TABLE, batch) is None
  np.testing.assert_array_equal(
    encoder.encode(TABLE, batch).context, [[[6, 7]]]
  )
  assert conditioning.condition(encoder, TABLE, batch).null is None


def test_t5_gives_zeros_for_padding_and_does_not_read_it():
  network = t5.T5Encoder(
    vocab_size=9, dim=8, depth=1, heads=2, head_dim=4, mlp_dim=8
  )
  encoder = encoders.TokenEncoder(
    network=network, task='text', null_prefix=(1,), pad_id=0, trained=False
  )
  assert encoder.widths == encoders.Widths(context=8)
  params = initial.evaluate(encoder.init, jax.random.key(0))
  encode = jax.jit(lambda ids: encoder.encode(params, {'condition_ids': ids}))
  ids = jnp.array([[5, 3, 1, 0, 0], [1, 0, 0, 0, 0]])
  got = encode(ids)
  np.testing.assert_array_equal(got[0, 3:], 0)
  np.testing.assert_allclose(got[:1, :3], encode(ids[:1, :3]), atol=1e-6)
  assert np.abs(got[0, :3]).min() > 0
  null = jax.jit(lambda: encoder.null(params, {'condition_ids': ids}))()
  np.testing.assert_allclose(null, [got[1], got[1]], atol=1e-6)


def test_hole_is_black_before_encoding_and_one_in_the_mask():
  encoder = picture_encoders.HoleEncoder(first_stage=FirstStage(), image_size=8)
  mask = np.zeros((1, 8, 8), np.uint8)
  mask[0, :4, :4] = 1
  batch = {'image': jnp.full((1, 8, 8, 3), 0.5), 'inpaint_mask': mask}
  got = encoder.encode(2.0, batch).concat
  assert got.shape == (1, 2, 2, 4)
  np.testing.assert_array_equal(got[0, 0, 0], [-2, -2, -2, 1])
  np.testing.assert_array_equal(got[0, 1, 0], [1, 1, 1, -1])
  np.testing.assert_array_equal(encoder.null(2.0, batch).concat, 0)
  with pytest.raises(ValueError, match=r'\(1, 8, 8\) as the picture has it'):
    encoder.encode(2.0, batch | {'inpaint_mask': mask[:, :4]})


def test_maps_are_one_hot_halved_and_mixed():
  encoder = picture_encoders.MapEncoder(
    network=conditioners.SpatialRescaler(n_stages=1, out_channels=1),
    classes=3,
    image_size=2,
  )
  params = {'channel_mapper': {'kernel': jnp.array([[1.0], [10.0], [100.0]])}}
  mask = jnp.array([[[0, 1], [2, 2]]], jnp.uint8)
  got = encoder.encode(params, {'mask': mask}).concat
  np.testing.assert_allclose(got, [[[[(1 + 10 + 200) / 4]]]], rtol=1e-6)


def test_small_pictures_stay_what_they_are():
  encoder = picture_encoders.LowResolutionEncoder(side=8)
  picture = jnp.linspace(-1, 1, 12).reshape(1, 2, 2, 3)
  batch = {'lr_image': picture}
  np.testing.assert_array_equal(encoder.encode({}, batch).concat, picture)
  np.testing.assert_array_equal(encoder.null({}, batch).concat, 0)


def test_weights_of_two_encoders_come_from_where_they_are():
  hole = picture_encoders.HoleEncoder(first_stage=FirstStage(), image_size=8)
  classes = encoders.ClassEncoder(classes=3, has_null=True, dim=2)
  both = encoders.BothEncoder(first=hole, second=classes)
  trained = conditioning.trained(both, {'first': 1.0, 'second': TABLE})
  assert trained == {'second': TABLE}
  found = conditioning.weights(
    both, {'condition': trained}, {'first_stage': 2.0}
  )
  assert found == {'first': 2.0, 'second': TABLE}
  batch = {
    'image': jnp.zeros((1, 8, 8, 3)),
    'inpaint_mask': jnp.zeros((1, 8, 8), jnp.uint8),
    'class': jnp.array([2]),
  }
  inputs = both.encode(found, batch)
  assert inputs.concat.shape == (1, 2, 2, 4)
  assert both.widths == encoders.Widths(context=2, concat=4)
  np.testing.assert_array_equal(inputs.context, [[[2, 3]]])
