"""Average precision beside values of pycocotools, and by hand."""

import numpy as np
import pytest

from pyramid_jax.metrics import average_precision


def of_images(images):
  """Returns (10,) of pairs: found objects, and boxes and labels that are."""
  scores, labels, hits, true = [], [], [], []
  for found, boxes, there in images:
    used, are_hits = average_precision.hits(found, boxes, there)
    scores.append(found['scores'][used])
    labels.append(found['labels'][used])
    hits.append(are_hits)
    true.append(there)
  return average_precision.by_threshold(
    *(np.concatenate(x) for x in (scores, labels, hits, true))
  )


def objects(boxes, scores, labels):
  return {
    'boxes': np.float64(boxes).reshape(-1, 4),
    'scores': np.float64(scores),
    'labels': np.array(labels, int),
  }


def drawn(seed, images=40):
  """Returns layouts, and what a detector that is often wrong finds."""
  rng = np.random.default_rng(seed)
  out = []
  for _ in range(images):
    count, most = rng.integers(0, 6), 4
    low = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (count, 2))], 1)
    labels = rng.integers(1, most, count)
    rows = rng.integers(0, max(count, 1), 8 if count else 0)
    noise = rng.normal(0, 3, (len(rows), 4))
    found = boxes[rows] + noise
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    mixed = np.where(
      rng.uniform(size=len(rows)) < 0.8,
      labels[rows],
      rng.integers(1, most + 1, len(rows)),
    )
    scores = rng.integers(1, 20, len(rows)) / 20  # many are equal
    out.append((objects(found, scores, mixed), boxes, labels))
  return out


@pytest.mark.parametrize(
  ('seed', 'want'),
  [
    # stats[:3] of COCOeval, pycocotools 2.0.11, on the same objects
    (0, [0.13550357075517042, 0.37447303039826885, 0.05952058749975063]),
    (1, [0.17122391719107283, 0.4439422335653751, 0.12009089226262189]),
    (2, [0.18173884553011935, 0.4523557936199845, 0.10286587125723849]),
  ],
)
def test_values_of_pycocotools(seed, want):
  got = of_images(drawn(seed))
  np.testing.assert_allclose([got.mean(), got[0], got[5]], want, atol=1e-9)


def test_a_perfect_detector():
  boxes, labels = np.float64([[0, 0, 10, 10], [5, 5, 20, 30]]), np.array([1, 2])
  found = objects(boxes[::-1], [0.2, 0.9], labels[::-1])
  np.testing.assert_array_equal(
    of_images([(found, boxes, labels)]), np.ones(10)
  )


def test_by_hand():
  """Two of three are found, the first guess is wrong, one is found twice."""
  boxes = np.float64([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
  found = objects(
    [[60, 0, 70, 10], *boxes[:1], *boxes[:1], *boxes[1:2]],
    [0.9, 0.8, 0.7, 0.6],
    [1] * 4,
  )
  got = of_images([(found, boxes, np.array([1, 1, 1]))])
  # Precision is 1/2 up to a recall of 2/3, of 101 the first 67.
  np.testing.assert_allclose(got, 67 * 0.5 / 101)


def test_categories_that_are_not_asked_for_do_not_count():
  boxes, labels = np.float64([[0, 0, 10, 10]]), np.array([1])
  found = objects([boxes[0], boxes[0]], [0.5, 0.9], [1, 7])
  assert of_images([(found, boxes, labels)])[0] == 1
  nothing = objects([], [], [])
  assert of_images([(nothing, boxes, labels)])[0] == 0
  assert np.isnan(of_images([(nothing, boxes[:0], labels[:0])])[0])


def test_a_hundred_objects_of_a_category_count():
  boxes, labels = np.float64([[0, 0, 10, 10]]), np.array([1])
  wrong = [[50, 50, 60, 60]] * 100
  found = objects([*wrong, boxes[0]], [0.9] * 100 + [0.1], [1] * 101)
  used, hits = average_precision.hits(found, boxes, labels)
  assert (len(used), hits.any()) == (100, False)


def test_iou_is_a_share_of_areas():
  a = np.float64([[0, 0, 10, 10], [0, 0, 0, 0]])
  b = np.float64([[5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]])
  np.testing.assert_allclose(
    average_precision.iou(a, b), [[1 / 3, 0, 0], [0, 0, 0]]
  )
