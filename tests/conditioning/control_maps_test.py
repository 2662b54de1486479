import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.conditioning import control_maps


ZEROS = np.zeros((2, 4, 4), np.uint8)


def test_a_cell_has_its_strongest_edge():
  edges = np.zeros((2, 4, 4), np.float32)
  edges[0, 1, 2], edges[0, 0, 3] = 0.75, 0.25
  make = control_maps.ControlMap(kind='edges')
  got = make({'edges': jnp.asarray(edges)}, 2)
  np.testing.assert_array_equal(
    got[..., 0], [[[0, 0.75], [0, 0]], ZEROS[1, :2, :2]]
  )
  assert got.shape == (2, 2, 2, make.channels)
  whole = make({'edges': jnp.asarray(edges)}, 4)
  np.testing.assert_array_equal(whole[..., 0], edges)
  white = make({'edges': jnp.asarray(255 * (edges > 0).astype(np.uint8))}, 4)
  np.testing.assert_array_equal(white[..., 0], edges > 0)


def test_classes_become_shares_of_a_cell():
  mask = ZEROS.copy()
  mask[1, :2, :2] = [[1, 2], [2, 2]]
  make = control_maps.ControlMap(kind='mask', classes=3)
  got = make({'mask': jnp.asarray(mask)}, 2)
  np.testing.assert_array_equal(got[1, 0, 0], [0, 0.25, 0.75])
  np.testing.assert_array_equal(got[0], [[[1, 0, 0]] * 2] * 2)
  assert make.channels == 3


def test_a_cell_is_known_where_all_of_it_is():
  image = np.full((2, 4, 4, 3), 0.5, np.float32)
  image[0, 0, 0] = -0.5
  hole = ZEROS.copy()
  hole[1, 3, 3] = 1
  batch = {'image': jnp.asarray(image), 'inpaint_mask': jnp.asarray(hole)}
  make = control_maps.ControlMap(kind='inpaint')
  got = make(batch, 2)
  assert got.shape == (2, 2, 2, make.channels)
  np.testing.assert_array_equal(got[0, 0, 0], [0.25] * 3 + [0])
  np.testing.assert_array_equal(got[1, 1, 1], [0, 0, 0, 1])
  np.testing.assert_array_equal(got[1, 0, 1], [0.5] * 3 + [0])
  fine = make(batch, 4)
  np.testing.assert_array_equal(fine[1, 3, 3], [0, 0, 0, 1])
  np.testing.assert_array_equal(fine[1, 2, 3], [0.5] * 3 + [0])


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="'lines', must be one of edges, mask"):
    control_maps.ControlMap(kind='lines')
  with pytest.raises(ValueError, match='has 0 classes, must be at least 1'):
    control_maps.ControlMap(kind='mask')
  make = control_maps.ControlMap(kind='edges')
  for shape in ((1, 6, 6), (1, 8, 4)):
    with pytest.raises(ValueError, match=r'shape \(1, ., .\), must be a sq'):
      make({'edges': jnp.zeros(shape)}, 4)


def test_depth_is_one_channel_and_its_mean_in_a_cell():
  depth = jnp.zeros((1, 4, 4), jnp.uint8).at[0, :2, 0].set(255)
  made = control_maps.ControlMap(kind='depth')({'mask': depth}, 2)
  np.testing.assert_allclose(made[0, :, :, 0], [[0.5, 0], [0, 0]])
