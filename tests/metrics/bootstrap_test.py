"""Intervals cover the truth as often as they say."""

import numpy as np

from pyramid_jax.metrics import bootstrap


def mean(values):
  return bootstrap.ratio(*bootstrap.mean_pairs(values).T)


def test_ratio_pools_and_leaves_out_what_asks_nothing():
  score = bootstrap.ratio(np.array([1, 0, 3]), np.array([2, 0, 4]))
  assert score.value == 4 / 6
  assert score.n == 2
  assert score.low == 1 / 2
  assert score.high == 3 / 4
  empty = bootstrap.ratio(np.array([0]), np.array([0]))
  assert np.isnan(empty.value)
  assert empty.n == 0


def test_mean_leaves_out_nan():
  score = mean(np.array([1.0, np.nan, 0.0]))
  assert score.value == 0.5
  assert score.n == 2
  assert mean(np.array([True, False])).value == 0.5


def test_intervals_cover_the_truth():
  random = np.random.RandomState(0)
  covered = 0
  for _ in range(200):
    score = mean(random.rand(60) < 0.7)
    covered += score.low <= 0.7 <= score.high
  assert 0.88 <= covered / 200 <= 0.99


def test_width_of_an_interval():
  """Four standard errors of a proportion: 4 sqrt(.25 / n)."""
  score = mean(np.arange(1000) % 2)
  width = 2 * 1.96 * np.sqrt(0.25 / 1000)
  np.testing.assert_allclose(score.high - score.low, width, rtol=0.1)


def test_a_proportion_has_the_interval_of_many_resamples():
  drawn = mean(np.arange(1000) < 700)
  exact = bootstrap.proportion(0.7, 1000)
  assert (exact.value, exact.n) == (0.7, 1000)
  np.testing.assert_allclose(
    [exact.low, exact.high], [drawn.low, drawn.high], atol=0.003
  )


def test_resamples_draw_as_many_as_there_are():
  drawn = bootstrap.resamples(50, 200)
  assert drawn.shape == (200, 50)
  assert (drawn.sum(1) == 50).all()
  np.testing.assert_allclose(drawn.mean(0), 1, atol=0.35)
  assert len({row.tobytes() for row in drawn}) == 200


def test_statistics_are_centred_on_their_value():
  """|mean| of noise around zero is biased upwards when resampled."""
  rows = np.random.RandomState(0).standard_normal((200, 8))
  rows -= rows.mean(0)
  score = bootstrap.statistic(rows, lambda m: np.abs(m).sum())
  assert abs(score.value) < 1e-12
  assert score.low < 0 < score.high
