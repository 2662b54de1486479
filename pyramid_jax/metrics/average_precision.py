"""Average precision of detected objects, as COCO defines it.

cocodataset/cocoapi: PythonAPI/pycocotools/cocoeval.py for boxes of all sizes:
thresholds of IoU 0.5, 0.55 .. 0.95, 101 recalls, 100 objects of a category in
an image.
"""

from collections.abc import Mapping

import numpy as np


THRESHOLDS = np.linspace(0.5, 0.95, 10)
MOST = 100  # objects of a category in an image
_RECALLS = np.linspace(0, 1, 101)


def hits(
  found: Mapping[str, np.ndarray], boxes: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns which found objects of an image count, and which are there.

  The objects of a category are taken by falling score; each hits the object of
  the layout with the largest IoU of those that no other has hit.

  Args:
    found: `boxes` (N, 4), `scores` (N,) and `labels` (N,) of an image, in any
      order; boxes are x0, y0, x1, y1 in the unit of the layout's.
    boxes: (M, 4) of the layout.
    labels: (M,) of the layout.

  Returns:
    (K,) the numbers of the K <= N objects that count, the others being more
    than `MOST` of a category, and (K, 10) bool, their hits by threshold.
  """
  order = np.argsort(-found['scores'], kind='stable')
  used: list[int] = []
  rows: list[np.ndarray] = []
  for label in np.unique(found['labels']):
    mine = order[found['labels'][order] == label][:MOST]
    theirs = boxes[labels == label]
    used += mine.tolist()
    rows += list(_assigned(iou(found['boxes'][mine], theirs)))
  shape = (len(rows), len(THRESHOLDS))
  return np.array(used, int), np.array(rows, bool).reshape(shape)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns (N, M), intersection over union of boxes (N, 4) and (M, 4)."""
  a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
  sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(
    a[..., :2], b[..., :2]
  )
  common = sides.clip(min=0).prod(-1)
  area = lambda x: (x[..., 2:] - x[..., :2]).prod(-1)
  whole = area(a) + area(b) - common
  return np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)


def _assigned(overlaps: np.ndarray) -> np.ndarray:
  """Returns (N, 10), which of N objects hit one of M, given (N, M)."""
  count, there = overlaps.shape
  out = np.zeros((count, len(THRESHOLDS)), bool)
  for column, threshold in enumerate(THRESHOLDS):
    free = np.ones(there, bool)
    for row in range(count):
      value = np.where(free, overlaps[row], -1)
      if not there or value.max() < threshold:
        continue
      best = there - 1 - int(value[::-1].argmax())  # of equal ones the last
      free[best], out[row, column] = False, True
  return out


def by_threshold(
  scores: np.ndarray, labels: np.ndarray, are_hits: np.ndarray, true: np.ndarray
) -> np.ndarray:
  """Returns (10,), the mean over categories of the average precision.

  Args:
    scores: (N,) of the objects of all images, image by image.
    labels: (N,) their categories.
    are_hits: (N, 10) see `hits`.
    true: (M,) categories of the objects of all layouts; those without any do
      not count. Without objects the result is NaN.
  """
  order = np.argsort(-scores, kind='stable')
  labels, are_hits = labels[order], are_hits[order]
  categories, counts = np.unique(true, return_counts=True)
  values = [
    _of_category(are_hits[labels == category], count)
    for category, count in zip(categories, counts, strict=True)
  ]
  none = np.full((1, len(THRESHOLDS)), np.nan)
  return np.mean(values if values else none, axis=0)


def _of_category(are_hits: np.ndarray, count: int) -> np.ndarray:
  """Returns (10,) of hits (N, 10) by falling score; `count` could be hit."""
  true = are_hits.cumsum(0)
  recall = true / count
  precision = true / (np.arange(len(true))[:, None] + 1)
  best = np.maximum.accumulate(precision[::-1])[::-1]
  out = np.zeros(len(THRESHOLDS))
  for column in range(len(THRESHOLDS)):
    places = np.searchsorted(recall[:, column], _RECALLS)
    reached = places[places < len(true)]
    out[column] = best[reached, column].sum() / len(_RECALLS)
  return out
