"""Triples and captions against detections, by hand."""

import numpy as np
import pytest

from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import object_scores
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.metrics import bootstrap


RED, BLUE, GREEN = (
  scenes.LABEL_NAMES.index(x)
  for x in ('red circle', 'blue square', 'green cross')
)
LEFT, RIGHT, ABOVE, BELOW, INSIDE, SURROUNDING = range(1, 7)


def _box(x, y, side=0.1):
  return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def _found(*objects):
  boxes = np.array([box for _, box in objects], np.float64).reshape(-1, 4)
  return detector.Detections(
    boxes=boxes,
    labels=np.array([label for label, _ in objects], np.int32),
    areas=np.full(len(objects), 10),
    masks=(),
  )


def test_predicates_of_boxes():
  boxes = np.array([_box(0.5, 0.5, 0.4), _box(0.5, 0.55), _box(0.9, 0.52)])
  want = [[-1, SURROUNDING, LEFT], [INSIDE, -1, LEFT], [RIGHT, RIGHT, -1]]
  np.testing.assert_array_equal(object_scores.predicate_matrix(boxes), want)
  boxes = np.array([_box(0.5, 0.2), _box(0.52, 0.8)])
  want = [[-1, ABOVE], [BELOW, -1]]
  np.testing.assert_array_equal(object_scores.predicate_matrix(boxes), want)


def test_any_pair_of_the_labels_will_do():
  found = _found(
    (RED, _box(0.1, 0.5)), (RED, _box(0.9, 0.5)), (BLUE, _box(0.5, 0.5))
  )
  assert object_scores.holds(RED, LEFT, BLUE, found)
  assert object_scores.holds(RED, RIGHT, BLUE, found)
  assert object_scores.holds(BLUE, LEFT, RED, found)
  assert not object_scores.holds(RED, ABOVE, BLUE, found)
  assert object_scores.holds(RED, LEFT, RED, found)
  assert not object_scores.holds(GREEN, LEFT, RED, found)
  assert not object_scores.holds(RED, LEFT, BLUE, _found())


def test_relation_scores_by_predicate():
  examples = {
    'labels': np.array([[RED, BLUE, 0], [GREEN, RED, 0]]),
    'triples': np.array(
      [
        [[0, LEFT, 1], [1, ABOVE, 0], [0, 0, 2], [-1, -1, -1]],
        [[0, LEFT, 1], [1, RIGHT, 0], [1, 0, 2], [-1, -1, -1]],
      ]
    ),
  }
  found = [
    _found((RED, _box(0.1, 0.5)), (BLUE, _box(0.9, 0.5))),
    _found((RED, _box(0.9, 0.5))),  # no green cross: both are false
  ]
  scores = bootstrap.ratios(object_scores.relation_pairs(examples, found))
  assert scores['relation_acc'].value == pytest.approx(1 / 4)
  assert scores['relation_acc/left of'].value == pytest.approx(1 / 2)
  assert scores['relation_acc/above'].value == 0
  assert scores['relation_acc/right of'].value == 0
  assert scores['relation_acc/below'].n == 0
  assert np.isnan(scores['relation_acc/below'].value)


def test_caption_scores():
  lines = [
    b'two red circles and a blue square on a striped background',
    'a red circle and a blue square on a wavy background, '
    'the red circle is left of the blue square',
  ]
  pair = _found((RED, _box(0.1, 0.5)), (BLUE, _box(0.9, 0.5)))
  scores = bootstrap.ratios(
    object_scores.caption_pairs(lines, [pair, pair], np.array([1, 0]))
  )
  # Counts: one red instead of two, three right; grounds: the first is right.
  assert scores['attribute_acc'].value == pytest.approx(3 / 4)
  assert scores['relation_acc'].value == 1
  assert scores['relation_acc'].n == 1
  assert scores['stuff_acc'].value == pytest.approx(1 / 2)
  assert scores['caption_acc'].value == pytest.approx(5 / 7)


def test_too_many_are_as_wrong_as_too_few():
  lines = ['a red circle on a wavy background'] * 3
  red = (RED, _box(0.1, 0.5))
  found = [_found(), _found(red), _found(red, red)]
  pairs = object_scores.caption_pairs(lines, found, np.zeros(3))
  scores = bootstrap.ratios(pairs)
  assert scores['attribute_acc'].value == pytest.approx(1 / 3)
