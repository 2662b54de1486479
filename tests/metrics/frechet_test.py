"""Frechet distances in closed form and against NumPy; moments by parts."""

import functools

import numpy as np
import pytest

from pyramid_jax.metrics import frechet


def _with_moments(mean, sd, n=200):
  """Samples whose sample mean and covariance are exact."""
  x = np.random.RandomState(0).standard_normal((n, len(sd)))
  x -= x.mean(0)
  q, _ = np.linalg.qr(x)
  return q * np.sqrt(n - 1) * sd + mean


def test_distance_of_diagonal_gaussians():
  a, b = np.array([1.0, 2, 0, 3]), np.array([2.0, 2, 0, 0.5])
  mean = np.array([1.0, -1, 0, 0])
  x, y = _with_moments(mean, a), _with_moments(0 * mean, b)
  want = (mean**2).sum() + ((a - b) ** 2).sum()
  got = frechet.feature_distance(x, y)
  np.testing.assert_allclose(got, want, rtol=1e-10)
  turn, _ = np.linalg.qr(np.random.RandomState(1).standard_normal((4, 4)))
  got = frechet.feature_distance(x @ turn, y @ turn)
  np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize('rows', [5, 300])
def test_distance_with_matrix_roots(rows):
  """Against eigenvalues of S1 S2, also with fewer rows than features."""
  random = np.random.RandomState(0)
  mix = random.standard_normal((10, 10))
  x = random.standard_normal((rows, 10)) @ mix
  y = random.standard_normal((40, 10)) + 0.3
  s1, s2 = np.cov(x.T), np.cov(y.T)
  eigen = np.linalg.eigvals(s1 @ s2).real
  trace = np.sqrt(np.maximum(eigen, 0)).sum()
  want = ((x.mean(0) - y.mean(0)) ** 2).sum()
  want += np.trace(s1) + np.trace(s2) - 2 * trace
  got = frechet.feature_distance(x, y)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert abs(frechet.feature_distance(x, x)) < 1e-9
  with pytest.raises(ValueError, match=r'at least 2 rows.*\(1, 10\)'):
    frechet.feature_distance(x[:1], y)


def _features(rows, size=6, seed=0, mean=1000.0):
  random = np.random.RandomState(seed)
  mix = random.standard_normal((size, size))
  x = random.standard_normal((rows, size)) @ mix + mean
  return x.astype(np.float32)


def test_moments_are_those_of_numpy():
  x = _features(50)
  total = frechet.moments(x)
  np.testing.assert_allclose(total.mean, x.mean(0, dtype=np.float64))
  want = np.cov(x.T.astype(np.float64))
  np.testing.assert_allclose(total.covariance, want, rtol=1e-9)


@pytest.mark.parametrize('cuts', [(20,), (1, 2, 49), (0, 25)])
def test_parts_make_the_whole(cuts):
  x = _features(50)
  whole = frechet.moments(x)
  parts = [frechet.moments(p) for p in np.split(x, cuts)]
  total = functools.reduce(frechet.Moments.merge, parts)
  assert total.count == 50
  np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-12)
  np.testing.assert_allclose(total.covariance, whole.covariance, rtol=1e-9)


def test_a_part_without_rows():
  x = _features(30)
  want, empty = frechet.moments(x), frechet.moments(x[:0])
  assert empty.merge(want).count == want.merge(empty).count == 30
  np.testing.assert_allclose(empty.merge(want).mean, want.mean)
  assert empty.merge(empty).count == 0


@pytest.mark.parametrize('rows', [4, 80])
def test_features_moments_and_files_agree(rows):
  x, y = _features(rows), _features(60, seed=1)
  want = frechet.feature_distance(x, y)
  a, b = frechet.moments(x), frechet.moments(y)
  by_moments = frechet.distance(frechet.fit_moments(a), frechet.fit_moments(b))
  by_file = frechet.distance(
    frechet.fit_covariance(a.mean, a.covariance), frechet.fit(y)
  )
  np.testing.assert_allclose([by_moments, by_file], want, rtol=1e-8)
  same = frechet.distance(frechet.fit_moments(a), frechet.fit(x))
  assert abs(same) < 1e-4 * want


def test_bad_moments():
  one = frechet.moments(np.zeros((1, 3)))
  with pytest.raises(ValueError, match='at least 2 rows of features, got 1'):
    frechet.fit_moments(one)
  with pytest.raises(ValueError, match='features of 3 and of 4 numbers'):
    one.merge(frechet.moments(np.zeros((2, 4))))
  a = frechet.fit(np.eye(3))
  with pytest.raises(ValueError, match='Gaussians of 3 and of 4 numbers'):
    frechet.distance(a, frechet.fit(np.eye(4)))


def test_a_million_and_three_rows_keep_their_digits():
  count = 1_000_003
  rng = np.random.default_rng(0)
  mix = rng.normal(size=(4, 4))
  x = (rng.normal(size=(count, 4)) @ mix + 1000).astype(np.float32)
  parts = [frechet.moments(p) for p in np.split(x, range(0, count, 4099))]
  total = functools.reduce(frechet.Moments.merge, parts)
  assert total.count == count
  exact = x.astype(np.float64)
  np.testing.assert_allclose(total.mean, exact.mean(0), rtol=1e-9)
  np.testing.assert_allclose(total.covariance, np.cov(exact.T), rtol=1e-6)
