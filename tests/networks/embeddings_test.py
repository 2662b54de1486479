import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks.layers import embeddings


def test_timestep_embedding_has_cosines_first():
  got = embeddings.timestep_embedding(jnp.array([10]), 8)
  want = [-0.839072, 0.540302, 0.995004, 0.999950, -0.544021, 0.841471]
  np.testing.assert_allclose(got[0, :6], want, atol=1e-6)


def test_timestep_embedding_of_odd_size_and_fractional_levels():
  t = np.array([0.5, 123.25])
  got = embeddings.timestep_embedding(jnp.asarray(t), 5)
  angles = t[:, None] * 10000.0 ** -np.array([0, 0.5])
  want = np.concatenate([np.cos(angles), np.sin(angles), np.zeros((2, 1))], 1)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_fourier_features():
  x = np.array([[0.25, 1.0]])
  got = embeddings.fourier_features(jnp.asarray(x), 2)
  angles = np.pi * np.array([0.25, 0.5])
  first = np.concatenate([np.sin(angles), np.cos(angles)])
  second = [0, 0, -1, 1]
  np.testing.assert_allclose(got, [np.concatenate([first, second])], atol=1e-6)


def test_frequencies_of_the_reference():
  """Sampled numbers of NVlabs/DiffiT and NVlabs/edm; their float32 angles."""
  got = np.float64(embeddings.timestep_embedding(jnp.array([0, 1, 500]), 256))
  np.testing.assert_allclose(
    got[1, :3], (0.5403023, 0.5973753, 0.6479059), atol=2e-7
  )
  np.testing.assert_allclose(
    got[2, 128:131], (-0.4677718, 0.3243249, -0.5291843), atol=5e-5
  )
  np.testing.assert_allclose(got.sum(), 323.549983, atol=1e-3)
  got = embeddings.timestep_embedding(
    jnp.array([0.3, -1.25]), 128, endpoint=True
  )
  np.testing.assert_allclose(
    got[0, :3], (0.9553365, 0.9665962, 0.9750294), atol=2e-7
  )
  np.testing.assert_allclose(
    got[0, 64:67], (0.2955202, 0.2563040, 0.2220757), atol=2e-7
  )
  np.testing.assert_allclose(
    got[1, 64:67], (-0.9489846, -0.8819511, -0.8034664), atol=2e-7
  )


def test_table_of_positions_tells_columns_first():
  table = embeddings.sincos_table(1152, 16).reshape(256, 1152)
  first = (0.8414710, 0.8240513, 0.8064017)
  np.testing.assert_allclose(table[1, :3], first, atol=1e-7)
  np.testing.assert_allclose(table[16, 576:579], first, atol=1e-7)
  np.testing.assert_allclose(
    table[1, 288:290], (0.5403023, 0.5665151), atol=1e-7
  )
  np.testing.assert_allclose(
    table.sum(dtype=np.float64), 134598.947804, atol=1e-3
  )
  with pytest.raises(ValueError, match='multiple of 4 channels, got 6'):
    embeddings.sincos_table(6, 2)


def test_a_place_has_one_code_in_every_grid():
  coarse = embeddings.sincos_table(8, 1, 64.0)
  fine = embeddings.sincos_table(8, 3, 64.0)
  np.testing.assert_array_equal(coarse[0, 0], fine[1, 1])
  assert np.abs(fine[1, 1] - fine[1, 2]).max() > 0.1
  # The centre of the first of four cells lies at 8 of 64.
  quarter = embeddings.sincos_table(8, 4, 64.0)[0, 0]
  np.testing.assert_allclose(
    quarter, [np.sin(8), np.sin(0.08), np.cos(8), np.cos(0.08)] * 2, rtol=1e-6
  )


def test_random_frequencies_stay():
  t = np.array([0.0, 0.25, -1.5])
  got = embeddings.random_fourier_features(jnp.asarray(t), 512, 4.0)
  np.testing.assert_allclose(got[0], [1.0] * 256 + [0.0] * 256)
  np.testing.assert_allclose(
    got[:, :256] ** 2 + got[:, 256:] ** 2, 1, rtol=1e-5
  )
  again = embeddings.random_fourier_features(jnp.asarray(t), 512, 4.0)
  np.testing.assert_array_equal(got, again)
  # The mean of cos(w t) over N(0, s^2) frequencies w is exp(-(s t)^2 / 2).
  small = embeddings.random_fourier_features(jnp.array([0.03]), 4096, 4.0)
  want = np.exp(-((2 * np.pi * 4.0 * 0.03) ** 2) / 2)
  np.testing.assert_allclose(small[0, :2048].mean(), want, atol=0.03)
