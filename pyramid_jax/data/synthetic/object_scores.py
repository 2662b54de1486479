"""Scores of `shapes` images from detected objects.

Layouts and label sets are compared by matched pairs of conditioned boxes and
detections; relations and captions by whether the detected objects satisfy them.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np
from scipy import optimize

from pyramid_jax.conditioning import scene_graph
from pyramid_jax.data.pixels import images as images_lib
from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.data.synthetic import text
from pyramid_jax.metrics import bootstrap


Pairs = dict[str, np.ndarray]  # (B, 2) by score, see `bootstrap.ratio`
Examples = Mapping[str, np.ndarray]
Found = Sequence[detector.Detections]
PREDICATES = scene_graph.PREDICATES
MIN_IOU = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
  """How the detections of one image fit its condition.

  It has the labels (n,) of the condition's objects and (k,) of the detections,
  the detection matched to each object (n,) or -1, and the IoU (n,) of the
  matched pairs, 0 where there is none.
  """

  asked: np.ndarray
  found: np.ndarray
  partner: np.ndarray
  iou: np.ndarray

  @property
  def hits(self) -> int:
    """The number of matched objects."""
    return int((self.partner >= 0).sum())

  @property
  def right(self) -> int:
    """The number of matched objects whose shape is right too."""
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


def match(
  boxes: np.ndarray, labels: np.ndarray, found: detector.Detections
) -> Match:
  """Pairs objects with detections of the same colour, IoU >= 0.5.

  The assignment with the largest total IoU (Hungarian) among all pairs of the
  condition's boxes (n, 4) in [0, 1] with labels (n,) 1..24 and the detections.
  """
  iou = pairwise_iou(np.asarray(boxes, np.float64), found.boxes)
  same = (labels - 1)[:, None] % len(scenes.COLOURS) == found.colours
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


def match_all(examples: Examples, found: Found) -> list[Match]:
  """Matches B images with `boxes` (B, N, 4), `labels`, `n_boxes`."""
  columns = (examples[key] for key in ('boxes', 'labels', 'n_boxes'))
  rows = zip(*columns, found, strict=True)
  return [match(b[:n], y[:n], one) for b, y, n, one in rows]


def layout_pairs(matches: Sequence[Match]) -> Pairs:
  """Returns the pairs of the scores of layouts, by the matches of each image.

  layout_recall and layout_precision are the shares of the asked objects and of
  the detections that match, layout_f1 their harmonic mean; mIoU is the mean IoU
  of the asked objects, 0 where nothing matches; category_acc the share of them
  that match and have their shape; count_acc the share of the images with as
  many detections as objects.
  """
  asked = np.array([len(m.asked) for m in matches])
  found = np.array([len(m.found) for m in matches])
  hits = np.array([m.hits for m in matches])
  right = np.array([m.right for m in matches])
  return {
    'layout_recall': bootstrap.pairs(hits, asked),
    'layout_precision': bootstrap.pairs(hits, found),
    'layout_f1': bootstrap.pairs(2 * hits, asked + found),
    'mIoU': bootstrap.pairs(np.array([m.iou.sum() for m in matches]), asked),
    'category_acc': bootstrap.pairs(right, asked),
    'count_acc': bootstrap.mean_pairs(asked == found),
  }


def purity_pairs(
  images: np.ndarray, matches: Sequence[Match], found: Found
) -> np.ndarray:
  """Returns the pairs of the share of coloured pixels that objects explain.

  It falls with stray blobs, which recall does not see: only matched objects
  count. `images` are (B, H, W, 3) uint8.
  """
  colours, _ = detector.colour_map(images_lib.check_batch(images))
  coloured = (colours >= 0).sum((1, 2))
  pairs = zip(matches, found, strict=True)
  explained = [d.areas[m.partner[m.partner >= 0]].sum() for m, d in pairs]
  return bootstrap.pairs(np.array(explained), coloured)


def label_pairs(examples: Examples, found: Found) -> Pairs:
  """Returns the pairs of the scores of label sets, wherever the objects are.

  Of `labels` (B, N), 0 = padding, category_acc is the share that is there, as a
  multiset; category_precision is the share of the detections that were asked
  for; count_acc that of the images with as many detections as labels.
  """
  count = lambda x: np.bincount(x, minlength=len(scenes.LABEL_NAMES))
  asked = np.array([count(y[y > 0]) for y in examples['labels']])
  seen = np.array([count(d.labels) for d in found])
  both = np.minimum(asked, seen).sum(1)
  n_asked, n_seen = asked.sum(1), seen.sum(1)
  return {
    'category_acc': bootstrap.pairs(both, n_asked),
    'category_precision': bootstrap.pairs(both, n_seen),
    'count_acc': bootstrap.mean_pairs(n_asked == n_seen),
  }


def predicate_matrix(boxes: np.ndarray) -> np.ndarray:
  """Returns the (K, K) int32 predicates of all pairs of (K, 4) boxes.

  By the rule of sg2im, borders included: conditions are clear of them, but a
  detection may have moved by half a pixel. -1 on the diagonal.
  """
  centres = (boxes[:, :2] + boxes[:, 2:]) / 2
  out = scene_graph.predicate_ids(
    boxes[:, None], boxes[None], centres[:, None], centres[None]
  )
  np.fill_diagonal(out, -1)
  return out


def holds(
  subject: int, predicate: int, target: int, found: detector.Detections
) -> bool:
  """Returns whether any detected pair of these labels is so related.

  `predicate` is a place in `PREDICATES`; a missing object makes it false.
  """
  rows = np.flatnonzero(found.labels == subject)
  columns = np.flatnonzero(found.labels == target)
  if not len(rows) or not len(columns):
    return False
  pairs = predicate_matrix(found.boxes)[np.ix_(rows, columns)]
  return bool((pairs == predicate).any())


def _shares(
  true: np.ndarray, asked: np.ndarray, total: str, names: Sequence[str]
) -> Pairs:
  """Returns the pairs of all (B, K) constraints that hold, and of each kind."""
  scores = {total: bootstrap.pairs(true.sum(1), asked.sum(1))}
  for i, name in enumerate(names):
    scores[name] = bootstrap.pairs(true[:, i], asked[:, i])
  return scores


def relation_pairs(examples: Examples, found: Found) -> Pairs:
  """Returns the pairs of the share of the conditions' triples that hold.

  relation_acc is that of all triples, 'relation_acc/left of' and so on those of
  one predicate. `examples` have `labels` (B, N) and `triples` (B, T, 3), rows
  of (subject index, predicate, object index), padded with -1; '__in_image__' is
  left out.
  """
  asked = np.zeros((len(found), len(PREDICATES) - 1))
  true = np.zeros_like(asked)
  rows = zip(examples['labels'], examples['triples'], found, strict=True)
  for b, (labels, triples, one) in enumerate(rows):
    for subject, predicate, target in triples[triples[:, 1] > 0]:
      asked[b, predicate - 1] += 1
      true[b, predicate - 1] += holds(
        labels[subject], predicate, labels[target], one
      )
  names = [f'relation_acc/{name}' for name in PREDICATES[1:]]
  return _shares(true, asked, 'relation_acc', names)


def caption_pairs(
  captions: Iterable[str | bytes], found: Found, kinds: np.ndarray
) -> Pairs:
  """Returns the pairs of the share of the constraints of captions that hold.

  caption_acc is that of all constraints, attribute_acc of 'two red circles'
  (exactly so many are detected), relation_acc of relations, stuff_acc of
  backgrounds.

  Args:
    captions: the captions of B images, in the grammar of `text`.
    found: detections of the images.
    kinds: (B,) backgrounds of the images, from `map_scores.background_kinds`.

  Raises:
    ValueError: a caption breaks the grammar.
  """
  asked = np.zeros((len(found), 3))
  true = np.zeros_like(asked)
  rows = zip(captions, found, kinds, strict=True)
  for b, (caption, one, kind) in enumerate(rows):
    wanted = text.parse(
      caption.decode() if isinstance(caption, bytes) else str(caption)
    )
    counts = [(one.labels == y).sum() == n for y, n in wanted.counts.items()]
    related = [holds(s, p, o, one) for s, p, o in wanted.relations]
    ground = [] if wanted.background is None else [wanted.background == kind]
    for i, group in enumerate((counts, related, ground)):
      asked[b, i], true[b, i] = len(group), sum(group)
  names = ('attribute_acc', 'relation_acc', 'stuff_acc')
  return _shares(true, asked, 'caption_acc', names)
