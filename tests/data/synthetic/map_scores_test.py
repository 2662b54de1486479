"""Scores of semantic maps by hand."""

import numpy as np
import pytest

from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import map_scores
from pyramid_jax.metrics import bootstrap


def scores(seen, asked):
  columns = map_scores.map_columns(seen, asked)
  miou = map_scores.mean_iou(columns.pop('seg_miou'))
  return {'seg_miou': miou, **bootstrap.ratios(columns)}


def test_classes_are_counted_over_all_pictures():
  asked = np.array([[[1, 1], [25, 25]], [[1, 2], [25, 25]]])
  seen = np.array([[[1, 1], [25, 25]], [[2, 2], [25, 1]]])
  values = scores(seen, asked)
  # Class 1: 2 of 4, class 2: 1 of 2, class 25: 3 of 4.
  assert values['seg_miou'].value == pytest.approx((0.5 + 0.5 + 0.75) / 3)
  assert values['pixel_acc'].value == pytest.approx(6 / 8)
  assert values['pixel_acc'].n == 2


def test_unlabelled_pixels_do_not_count():
  asked = np.array([[[1, 0], [0, 25]]])
  seen = np.array([[[1, 7], [8, 25]]])
  values = scores(seen, asked)
  assert values['seg_miou'].value == values['pixel_acc'].value == 1


def test_maps_are_painted_over_the_background():
  mask = np.array([[True, False], [True, True]])
  found = detector.Detections(
    boxes=np.array([[0.25, 0.25, 0.75, 0.75]]),
    labels=np.array([7], np.int32),
    areas=np.array([3]),
    masks=(((slice(1, 3), slice(0, 2)), mask),),
  )
  maps = map_scores.class_maps((4, 4), [found], np.array([2]))
  want = np.full((4, 4), 27)
  want[1, 0] = want[2, 0] = want[2, 1] = 7
  np.testing.assert_array_equal(maps[0], want)
  assert maps.dtype == np.uint8


def test_bad_maps():
  with pytest.raises(ValueError, match=r'\(1, 2, 2\) and \(1, 2, 3\) must'):
    map_scores.map_columns(np.ones((1, 2, 2), int), np.ones((1, 2, 3), int))
  with pytest.raises(ValueError, match=r'classes are 0..28, got 29'):
    map_scores.map_columns(np.ones((1, 2, 2), int), np.full((1, 2, 2), 29))
