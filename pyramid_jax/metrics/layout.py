"""Are the asked objects where they were asked to be?

Scores of layouts and of label sets on `shapes` pictures, from matched pairs of
asked boxes and detections.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np
from scipy import optimize

from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.metrics import bootstrap


MIN_IOU = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
  """How the detections of one image fit the asked objects.

  Attributes:
    asked: (n,) int32 labels of the asked objects.
    found: (k,) int32 labels of the detections.
    partner: (n,) int, the detection matched to each asked object, or -1.
    iou: (n,) float64 of the matched pairs, 0 where there is none.
  """

  asked: np.ndarray
  found: np.ndarray
  partner: np.ndarray
  iou: np.ndarray

  @property
  def hits(self) -> int:
    """Matched objects."""
    return int((self.partner >= 0).sum())

  @property
  def right(self) -> int:
    """Matched objects whose shape is right too."""
    matched = self.partner >= 0
    return int((self.asked[matched] == self.found[self.partner[matched]]).sum())


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns (n, k) intersections over unions of boxes (n, 4) and (k, 4)."""
  low = np.maximum(a[:, None, :2], b[None, :, :2])
  high = np.minimum(a[:, None, 2:], b[None, :, 2:])
  overlap = np.prod(np.maximum(high - low, 0), -1)
  areas = [np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), -1) for x in (a, b)]
  union = areas[0][:, None] + areas[1] - overlap
  return overlap / np.maximum(union, 1e-12)


def _colours(labels: np.ndarray) -> np.ndarray:
  return (labels - 1) % len(scenes.COLOURS)


def match(
  boxes: np.ndarray, labels: np.ndarray, found: detector.Detections
) -> Match:
  """Pairs asked objects with detections of the same colour, IoU >= 0.5.

  The assignment with the largest total IoU (Hungarian) among all pairs.

  Args:
    boxes: (n, 4) asked boxes in [0, 1].
    labels: (n,) asked labels, 1..24.
    found: detections of the image.
  """
  iou = pairwise_iou(np.asarray(boxes, np.float64), found.boxes)
  same = _colours(labels)[:, None] == found.colours
  iou = np.where(same & (iou >= MIN_IOU), iou, 0)
  rows, columns = optimize.linear_sum_assignment(-iou)
  kept = iou[rows, columns] > 0
  partner = np.full(len(labels), -1)
  partner[rows[kept]] = columns[kept]
  value = np.zeros(len(labels))
  value[rows[kept]] = iou[rows[kept], columns[kept]]
  return Match(
    asked=np.asarray(labels), found=found.labels, partner=partner, iou=value
  )


def match_all(
  examples: Mapping[str, np.ndarray], found: Sequence[detector.Detections]
) -> list[Match]:
  """Matches every image with its example.

  Args:
    examples: `boxes` (B, N, 4), `labels` (B, N), `n_boxes` (B,).
    found: detections of B images.
  """
  rows = zip(
    examples['boxes'],
    examples['labels'],
    examples['n_boxes'],
    found,
    strict=True,
  )
  return [match(b[:n], y[:n], one) for b, y, n, one in rows]


def scores(matches: Sequence[Match]) -> dict[str, bootstrap.Score]:
  """Returns the scores of layouts.

  Args:
    matches: of every image, from `match_all`.

  Returns:
    layout_recall: matched part of the asked objects, over all images.
    layout_precision: matched part of the detections.
    layout_f1: their harmonic mean.
    mIoU: mean IoU of the asked objects, 0 where nothing matches.
    category_acc: part of the asked objects that match and have their shape.
    count_acc: part of the images with as many detections as asked objects.
  """
  asked = np.array([len(m.asked) for m in matches])
  found = np.array([len(m.found) for m in matches])
  hits = np.array([m.hits for m in matches])
  right = np.array([m.right for m in matches])
  return {
    'layout_recall': bootstrap.ratio(hits, asked),
    'layout_precision': bootstrap.ratio(hits, found),
    'layout_f1': bootstrap.ratio(2 * hits, asked + found),
    'mIoU': bootstrap.ratio(np.array([m.iou.sum() for m in matches]), asked),
    'category_acc': bootstrap.ratio(right, asked),
    'count_acc': bootstrap.mean(asked == found),
  }


def purity(
  images: np.ndarray,
  matches: Sequence[Match],
  found: Sequence[detector.Detections],
) -> bootstrap.Score:
  """Returns the part of the coloured pixels that matched objects explain.

  Punishes stray blobs, which recall does not see.

  Args:
    images: (B, H, W, 3) uint8.
    matches: of every image.
    found: detections of every image.
  """
  colours, _ = detector.colour_map(detector.check(images))
  coloured = (colours >= 0).sum((1, 2))
  pairs = zip(matches, found, strict=True)
  explained = [d.areas[m.partner[m.partner >= 0]].sum() for m, d in pairs]
  return bootstrap.ratio(np.array(explained), coloured)


def label_scores(
  examples: Mapping[str, np.ndarray], found: Sequence[detector.Detections]
) -> dict[str, bootstrap.Score]:
  """Returns the scores of label sets, wherever the objects are.

  Args:
    examples: `labels` (B, N), 0 = padding.
    found: detections of B images.

  Returns:
    category_acc: part of the asked labels that are there (as a multiset).
    category_precision: part of the detections that were asked for.
    count_acc: part of the images with as many detections as labels.
  """
  size = len(scenes.LABEL_NAMES)
  asked = np.array(
    [np.bincount(y[y > 0], minlength=size) for y in examples['labels']]
  )
  seen = np.array([np.bincount(d.labels, minlength=size) for d in found])
  both = np.minimum(asked, seen).sum(1)
  n_asked, n_seen = asked.sum(1), seen.sum(1)
  return {
    'category_acc': bootstrap.ratio(both, n_asked),
    'category_precision': bootstrap.ratio(both, n_seen),
    'count_acc': bootstrap.mean(n_asked == n_seen),
  }
