"""Matching and the scores of layouts and label sets, by hand."""

import numpy as np
import pytest

from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import object_scores
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.metrics import bootstrap


RED, RED_SQUARE, GREEN = (
  scenes.LABEL_NAMES.index(x)
  for x in ('red circle', 'red square', 'green circle')
)


def _found(*objects):
  """Detections of (label, box) pairs."""
  boxes = np.array([box for _, box in objects], np.float64).reshape(-1, 4)
  return detector.Detections(
    boxes=boxes,
    labels=np.array([label for label, _ in objects], np.int32),
    areas=np.full(len(objects), 10),
    masks=(),
  )


def test_pairwise_iou():
  a = np.array([[0, 0, 2, 2], [0, 0, 1, 1.0]])
  b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6.0]])
  want = [[1 / 7, 1, 0], [0, 1 / 4, 0]]
  np.testing.assert_allclose(object_scores.pairwise_iou(a, b), want)
  assert object_scores.pairwise_iou(a, b[:0]).shape == (2, 0)


def test_matching_needs_colour_and_overlap():
  box, near, far = [0, 0, 0.4, 0.4], [0, 0, 0.4, 0.2], [0, 0, 0.4, 0.19]
  for label, where, hits, right in (
    (RED, box, 1, 1),
    (RED_SQUARE, box, 1, 0),
    (GREEN, box, 0, 0),
    (RED, near, 1, 1),
    (RED, far, 0, 0),
  ):
    match = object_scores.match([box], np.array([RED]), _found((label, where)))
    assert (match.hits, match.right) == (hits, right)


def test_matching_is_the_best_assignment_not_the_greedy_one():
  """Asked: a, b. Detected: c fits both, d fits a alone."""
  a, b = [0, 0, 1, 0.5], [0, 0.2, 1, 0.7]
  c, d = [0, 0.08, 1, 0.58], [0, 0, 1, 0.4]
  iou = object_scores.pairwise_iou(np.array([a, b]), np.array([c, d]))
  assert iou[0, 0] > iou[1, 0] >= 0.5
  assert iou[1, 1] < 0.5
  match = object_scores.match(
    [a, b], np.array([RED, RED]), _found((RED, c), (RED, d))
  )
  assert match.partner.tolist() == [1, 0]
  np.testing.assert_allclose(match.iou, [iou[0, 1], iou[1, 0]])


def test_scores_are_pooled_over_objects():
  """Image 1: two asked, one hit of the wrong shape; image 2: one asked, hit,
  and one detection too many."""
  box, other = [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]
  examples = {
    'boxes': np.array([[box, other], [box, [0] * 4]]),
    'labels': np.array([[RED, GREEN], [GREEN, 0]]),
    'n_boxes': np.array([2, 1]),
  }
  found = [
    _found((RED_SQUARE, box)),
    _found((GREEN, box), (RED, other)),
  ]
  matches = object_scores.match_all(examples, found)
  scores = bootstrap.ratios(object_scores.layout_pairs(matches))
  values = {name: s.value for name, s in scores.items()}
  assert values == pytest.approx(
    {
      'layout_recall': 2 / 3,
      'layout_precision': 2 / 3,
      'layout_f1': 2 / 3,
      'mIoU': 2 / 3,
      'category_acc': 1 / 3,
      'count_acc': 0,
    }
  )
  labels = bootstrap.ratios(object_scores.label_pairs(examples, found))
  values = {name: s.value for name, s in labels.items()}
  assert values == pytest.approx(
    {'category_acc': 1 / 3, 'category_precision': 1 / 3, 'count_acc': 0}
  )


def test_label_scores_count_every_copy():
  examples = {'labels': np.array([[RED, RED, GREEN], [GREEN, GREEN, 0]])}
  where = [0, 0, 1, 1]
  found = [
    _found((RED, where), (GREEN, where), (GREEN, where)),
    _found((GREEN, where), (GREEN, where)),
  ]
  scores = bootstrap.ratios(object_scores.label_pairs(examples, found))
  assert scores['category_acc'].value == pytest.approx(4 / 5)
  assert scores['category_precision'].value == pytest.approx(4 / 5)
  assert scores['count_acc'].value == 1


def test_nothing_detected():
  examples = {
    'boxes': np.array([[[0, 0, 0.5, 0.5]]]),
    'labels': np.array([[RED]]),
    'n_boxes': np.array([1]),
  }
  matches = object_scores.match_all(examples, [_found()])
  scores = bootstrap.ratios(object_scores.layout_pairs(matches))
  assert scores['layout_recall'].value == 0
  assert np.isnan(scores['layout_precision'].value)
  assert scores['layout_precision'].n == 0


def test_purity_counts_stray_blobs():
  image = np.full((1, 32, 32, 3), 128, np.uint8)
  image[0, 0:10, 0:10] = scenes.PALETTE[0] * 255
  image[0, 20:25, 20:25] = scenes.PALETTE[1] * 255
  found = detector.detect(image)
  examples = {
    'boxes': np.array([[[0, 0, 10 / 32, 10 / 32]]]),
    'labels': np.array([[RED_SQUARE]]),
    'n_boxes': np.array([1]),
  }
  matches = object_scores.match_all(examples, found)
  ((explained, coloured),) = object_scores.purity_pairs(image, matches, found)
  assert explained / coloured == pytest.approx(0.8)
