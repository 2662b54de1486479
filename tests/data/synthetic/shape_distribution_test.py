"""Features of images, total variations by hand."""

import numpy as np
import pytest

from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.data.synthetic import shape_distribution
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import frechet
from tests.helpers import shapes_renderer


def _real(level, count, first=0):
  spec = scenes.sample(2, np.arange(first, first + count), level)
  images = shapes_renderer.render(spec, 32)['image']
  return spec, images, detector.detect(images)


def test_features_see_colour_place_and_texture():
  spec, images, found = _real(1, 30)
  features = shape_distribution.shape_features(images, found)
  assert features.shape == (30, shape_distribution.FEATURES)
  assert np.isfinite(features).all()
  np.testing.assert_allclose(features[:, :27].sum(1) / 4, 1)
  counts = np.zeros((30, 6))
  for b in range(30):
    colours = (spec.labels[b, : spec.n_boxes[b]] - 1) % 6
    counts[b] = np.bincount(colours, minlength=6)
  same = (features[:, 51:57] * 2 == counts).all(1)
  assert same.mean() > 0.95
  # A mirrored picture differs in place and angles only.
  mirrored = images[:, :, ::-1]
  other = shape_distribution.shape_features(mirrored, detector.detect(mirrored))
  np.testing.assert_allclose(other[:, :27], features[:, :27])
  np.testing.assert_allclose(other[:, 59], 2 - features[:, 59], atol=1e-9)


def test_shape_fd_knows_the_level():
  _, images, found = _real(1, 150)
  features = shape_distribution.shape_features(images, found)
  _, images, found = _real(1, 150, first=1000)
  same = shape_distribution.shape_features(images, found)
  _, images, found = _real(2, 150)
  other = shape_distribution.shape_features(images, found)
  near = shape_distribution.shape_fd(same, features)
  far = shape_distribution.shape_fd(other, features)
  assert near.low <= near.value <= near.high
  assert near.high < far.low


def test_total_variation_by_hand():
  asked = {
    'boxes': np.array([[[0, 0, 0.2, 0.2], [0.8, 0.8, 1, 1]]] * 2),
    'labels': np.array([[1, 24], [1, 24]]),
    'n_boxes': np.array([2, 2]),
  }
  found = [
    detector.Detections(
      boxes=np.array([[0, 0, 0.2, 0.2]]),
      labels=np.array([label], np.int32),
      areas=np.array([4]),
      masks=(),
    )
    for label in (1, 2)
  ]
  scores = shape_distribution.total_variation(
    shape_distribution.found_histograms(found),
    shape_distribution.asked_histograms(asked),
  )
  values = {name: s.value for name, s in scores.items()}
  # Asked: red and magenta, circles and crosses, two opposite corners.
  assert values == pytest.approx(
    {'tv_count': 1, 'tv_colour': 0.5, 'tv_shape': 0.5, 'tv_pos': 0.5}
  )


def test_positions_tell_rows_from_columns():
  boxes = np.array([[[0.8, 0, 1, 0.2]]])
  rows = [
    shape_distribution.asked_histograms(
      {'boxes': x, 'labels': np.array([[1]]), 'n_boxes': np.array([1])}
    )
    for x in (boxes, boxes[..., [1, 0, 3, 2]])
  ]
  scores = shape_distribution.total_variation(*rows)
  assert scores['tv_pos'].value == 1
  assert scores['tv_shape'].value == 0


@pytest.mark.parametrize('level', range(4))
def test_total_variation_of_the_truth_is_small(level):
  spec, _, found = _real(level, 300)
  exact = shape_distribution.exact_histograms(level)
  rows = shape_distribution.asked_histograms(vars(spec))
  for score in shape_distribution.total_variation(rows, exact).values():
    assert score.value < 0.1
  if level in (0, 1):
    rows = shape_distribution.found_histograms(found)
    scores = shape_distribution.total_variation(rows, exact)
    assert max(s.value for s in scores.values()) < 0.12


def test_nothing_detected_is_as_far_as_can_be():
  none = detector.detect(np.full((3, 16, 16, 3), 128, np.uint8))
  rows = shape_distribution.found_histograms(none)
  exact = shape_distribution.exact_histograms(1)
  scores = shape_distribution.total_variation(rows, exact)
  assert {s.value for s in scores.values()} == {1.0}


def test_resampled_moments_are_those_of_repeated_features(monkeypatch):
  monkeypatch.setattr(shape_distribution, '_FD_BLOCK', 17)
  features = np.random.RandomState(0).randn(50, 5) + 30
  got = shape_distribution._resampled_moments(features)
  drawn = bootstrap.resamples(50, len(got))
  for moments, times in zip(got, drawn, strict=True):
    want = frechet.moments(np.repeat(features, times, axis=0))
    assert moments.count == want.count
    np.testing.assert_allclose(moments.mean, want.mean, rtol=1e-12)
    np.testing.assert_allclose(moments.scatter, want.scatter, atol=1e-10)
