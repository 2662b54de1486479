import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks.layers import quantizer


def _normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('codes', [7, 1024, 1025, 2500])
def test_nearest_code_equals_all_distances_in_float64(codes):
  z, codebook = _normal(0, 2, 5, 6, 4), _normal(1, codes, 4)

  got = quantizer.nearest_code(z, codebook)

  differences = z[..., None, :].astype(np.float64) - codebook
  want = (differences**2).sum(-1).argmin(-1)
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('codes', [600, 3000])
def test_nearest_code_prefers_the_first_of_equal_entries(codes):
  codebook = np.tile(_normal(0, 300, 3), (codes // 300, 1))

  got = quantizer.nearest_code(codebook, codebook)

  np.testing.assert_array_equal(got, np.arange(codes) % 300)


def _quantise(z, codebook, **fields):
  module = quantizer.VectorQuantizer(*codebook.shape, **fields)
  return module.apply({'params': {'embedding': codebook}}, z)


@pytest.mark.parametrize('legacy', [True, False])
def test_loss_weighs_the_term_that_legacy_says(legacy):
  z, codebook = _normal(0, 2, 3, 3, 4), _normal(1, 16, 4)

  def loss(z, codebook):
    return _quantise(z, codebook, beta=0.25, legacy=legacy)[2]

  got = loss(z, codebook)
  to_z, to_codebook = jax.grad(loss, (0, 1))(z, codebook)

  entries, codes, _ = _quantise(z, codebook)
  np.testing.assert_allclose(entries, codebook[codes], atol=1e-6)
  difference = z - codebook[codes]
  encoder, book = (1, 0.25) if legacy else (0.25, 1)
  np.testing.assert_allclose(got, 1.25 * (difference**2).mean(), rtol=1e-5)
  gradient = 2 * difference / z.size
  np.testing.assert_allclose(to_z, encoder * gradient, atol=1e-6)
  want = np.zeros_like(codebook)
  np.add.at(want, codes, -book * gradient)
  np.testing.assert_allclose(to_codebook, want, atol=1e-6)


def test_gradients_of_the_entries_go_straight_to_the_input():
  z, codebook, weight = _normal(0, 5, 4), _normal(1, 8, 4), _normal(2, 5, 4)

  def score(z, codebook):
    return (weight * _quantise(z, codebook)[0]).sum()

  to_z, to_codebook = jax.grad(score, (0, 1))(z, codebook)

  np.testing.assert_allclose(to_z, weight, rtol=1e-6)
  assert not np.any(to_codebook)


@pytest.mark.parametrize('init_normal', [False, True])
def test_codebooks_start_as_the_reference_says(init_normal):
  module = quantizer.VectorQuantizer(500, 8, init_normal=init_normal)

  book = module.init(jax.random.key(0), jnp.zeros((1, 8)))['params'][
    'embedding'
  ]

  std = 1 if init_normal else 1 / 500 / 3**0.5
  np.testing.assert_allclose(np.std(book), std, rtol=0.05)


def test_wrong_channels_are_named():
  with pytest.raises(ValueError, match=r'entries of 4 channels.*\(2, 3\)'):
    _quantise(np.zeros((2, 3)), np.zeros((8, 4), np.float32))


def test_usage_of_a_codebook():
  codes = jnp.array([[0, 0, 3], [3, 1, 1]])

  counts = quantizer.code_counts(codes, 6)

  np.testing.assert_array_equal(counts, [2, 2, 0, 2, 0, 0])
  np.testing.assert_allclose(quantizer.perplexity(counts), 3, rtol=1e-5)
  assert int(quantizer.dead_codes(counts)) == 3


def test_perplexity_ranges_from_one_to_the_number_of_codes():
  one = quantizer.code_counts(jnp.zeros(9, jnp.int32), 5)
  equal = quantizer.code_counts(jnp.arange(5), 5)

  np.testing.assert_allclose(quantizer.perplexity(one), 1, rtol=1e-5)
  np.testing.assert_allclose(quantizer.perplexity(equal), 5, rtol=1e-5)
