"""The inception score by its definition."""

import numpy as np
import pytest

from pyramid_jax.metrics import inception_score


def split_scores(logits, size=5000):
  sums = inception_score.split_sums(logits, np.arange(len(logits)), size)
  return inception_score.split_scores(sums)


def test_clear_pictures_of_every_class():
  logits = 1000.0 * np.tile(np.eye(5), (4, 1))
  np.testing.assert_allclose(split_scores(logits, 10), [5, 5])


def test_pictures_that_are_all_alike():
  logits = np.tile(np.random.RandomState(0).randn(1, 7), (9, 1))
  assert split_scores(logits) == pytest.approx(1)


def test_splits_are_in_order_and_the_last_is_shorter():
  logits = np.random.RandomState(0).randn(23, 6)
  p = np.exp(logits)
  p /= p.sum(1, keepdims=True)
  want = []
  for part in (p[:10], p[10:20], p[20:]):
    divergence = (part * np.log(part / part.mean(0))).sum(1)
    want.append(np.exp(divergence.mean()))
  got = split_scores(logits, 10)
  np.testing.assert_allclose(got, want, rtol=1e-12)


def test_bad_values():
  with pytest.raises(ValueError, match=r'N > 0, got \(0, 5\)'):
    split_scores(np.zeros((0, 5)), 10)
  with pytest.raises(ValueError, match='must be > 0, got 0'):
    split_scores(np.zeros((2, 5)), 0)


def test_sums_of_parts_are_merged():
  rng = np.random.RandomState(0)
  logits, order = rng.randn(23, 6), rng.permutation(23)
  sums = {}
  for part in np.split(order, [4, 5, 17]):
    one = inception_score.split_sums(logits[part], part, 10)
    sums = inception_score.merge_splits(sums, one)
  got = inception_score.split_scores(sums)
  want = split_scores(logits, 10)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  score = inception_score.over_splits(sums)
  reach = 1.959964 * want.std(ddof=1) / 3**0.5
  np.testing.assert_allclose(
    [score.value, score.low, score.high],
    want.mean() + reach * np.array([0, -1, 1]),
    rtol=1e-6,
  )
  assert score.n == 23
  assert np.isnan(inception_score.over_splits({0: sums[0]}).low)


def test_shuffled_splits_are_those_of_torch_fidelity():
  """Recorded with torch-fidelity 0.4.0, in batches of any order."""
  rng = np.random.RandomState(0)
  rng.standard_normal((110, 8))
  logits = (3 * rng.standard_normal((37, 11))).astype(np.float32)
  numbers = inception_score.shuffled_splits(37)
  parts = [
    inception_score.sums_of(logits[rows], numbers[rows])
    for rows in (slice(20, 37), slice(20))
  ]
  splits = inception_score.merge_splits(*parts)
  values = inception_score.split_scores(splits)
  np.testing.assert_allclose(values.mean(), 2.204416316891086, rtol=1e-6)
  np.testing.assert_allclose(values.std(), 0.2996886446021767, rtol=1e-6)
  assert len(set(inception_score.shuffled_splits(7))) == 7
