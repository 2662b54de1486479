import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks.layers import transformer


def test_distance_is_measured_in_half_sides_from_the_border():
  places = jnp.array([[[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]]])
  outside = transformer.distance_outside(places, 4, 4)
  assert outside.shape == (1, 16, 2)
  box, whole = np.asarray(outside[0, :, 0]).reshape(4, 4), outside[0, :, 1]
  np.testing.assert_allclose(whole, 0)
  np.testing.assert_allclose(box[:2, :2], 0)
  # Centre 0.625 is 0.375 from the box's centre: half a side (0.25) and half.
  np.testing.assert_allclose(box[0, 2], 0.5)
  np.testing.assert_allclose(box[3, 0], 1.5)


def test_boxes_smaller_than_a_cell_count_as_a_cell():
  places = jnp.array([[[0.2, 0.2, 0.21, 0.21]]])
  outside = transformer.distance_outside(places, 2, 2)[0, :, 0]
  assert outside[0] == 0
  assert np.all(outside[1:] > 0)


def test_far_tokens_are_not_attended_to():
  module = transformer.CrossAttention(heads=2, head_dim=4)
  x = jax.random.normal(jax.random.key(0), (1, 3, 8))
  context = jax.random.normal(jax.random.key(1), (1, 2, 8))
  outside = jnp.array([[[0.0, 100.0], [100.0, 0.0], [0.0, 0.0]]])
  variables = module.init(jax.random.key(2), x, context, False, outside)

  got = module.apply(variables, x, context, False, outside)

  near = module.apply(variables, x, context[:, :1], False, outside[..., :1] * 0)
  other = module.apply(
    variables, x, context[:, 1:], False, outside[..., :1] * 0
  )
  np.testing.assert_allclose(got[0, 0], near[0, 0], atol=1e-5)
  np.testing.assert_allclose(got[0, 1], other[0, 1], atol=1e-5)
  assert not np.allclose(got[0, 2], near[0, 2], atol=1e-3)
