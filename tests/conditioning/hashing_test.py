import numpy as np

from pyramid_jax.conditioning import hashing


def test_splitmix64_known_values():
  # The first outputs of splitmix64 from state 0 and from 1234567 (Vigna's
  # reference): the state moves by the golden ratio, then is mixed.
  assert hashing.mix64(np.uint64(0)) == 0xE220A8397B1DCDAF
  assert hashing.mix64(np.uint64(1234567)) == 6457827717110365317


def test_words_order_and_sign_matter():
  assert hashing.hash64(1, 2) != hashing.hash64(2, 1)
  assert hashing.hash64(-1) == hashing.hash64(2**64 - 1)
  grid = hashing.hash64(np.arange(3)[:, None], np.arange(4))
  assert grid.shape == (3, 4)
  assert np.unique(grid).size == 12


def test_hash_is_continued():
  words = -5, np.arange(3)[:, None]
  more = np.arange(4), 2**64 - 1
  np.testing.assert_array_equal(
    hashing.extended(hashing.hash64(*words), *more),
    hashing.hash64(*words, *more),
  )


def test_uniforms_are_uniform():
  u = hashing.uniforms(7, np.arange(20000))
  assert u.min() >= 0
  assert u.max() < 1
  counts, _ = np.histogram(u, 10, (0, 1))
  assert np.abs(counts - 2000).max() < 200
  assert set(hashing.below(3, 7, np.arange(50))) == {0, 1, 2}
  assert sorted(hashing.order(9, 5)) == list(range(9))
