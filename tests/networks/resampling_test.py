import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks.layers import resampling


def _image(h, w):
  return np.arange(2 * h * w * 3, dtype=np.float32).reshape(2, h, w, 3)


@pytest.mark.parametrize(
  ('shape', 'size'),
  [
    ((4, 6), (4, 6)),
    ((8, 4), (4, 2)),  # top-left of every cell
    ((3, 2), (6, 8)),  # repeats
    ((5, 7), (3, 4)),
    ((3, 4), (5, 7)),
    ((8, 3), (4, 6)),
  ],
)
def test_nearest_takes_the_floor_of_the_scaled_index(shape, size):
  x = _image(*shape)

  got = resampling.nearest(x, size)

  rows = [i * shape[0] // size[0] for i in range(size[0])]
  columns = [i * shape[1] // size[1] for i in range(size[1])]
  np.testing.assert_array_equal(got, x[:, rows][:, :, columns])


def test_enlarge_repeats_in_both_directions():
  x = _image(2, 3)

  got = resampling.enlarge(x, 3)

  np.testing.assert_array_equal(got, x.repeat(3, 1).repeat(3, 2))


def test_average_pool_averages_cells_and_keeps_the_element_type():
  x = _image(4, 6)

  got = resampling.average_pool(x)
  half = resampling.average_pool(jnp.asarray(x, jnp.bfloat16))

  want = x.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert half.dtype == jnp.bfloat16


def test_average_pool_drops_an_odd_row():
  x = _image(5, 4)

  np.testing.assert_array_equal(
    resampling.average_pool(x), resampling.average_pool(x[:, :4])
  )


def test_pixels_of_a_cell_become_channels():
  x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  got = resampling.space_to_depth(jnp.asarray(x), 2)
  assert got.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(got[1, 1, 2], x[1, 2:, 4:].ravel())
  np.testing.assert_array_equal(resampling.depth_to_space(got, 2), x)
