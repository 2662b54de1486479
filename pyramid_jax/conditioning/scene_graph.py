"""Scene graphs: relations of boxes, and graphs as text."""

from collections.abc import Sequence

import numpy as np

from pyramid_jax.conditioning import hashing


# sg2im's predicates of COCO, in the order of their ids.
PREDICATES = (
  '__in_image__',
  'left of',
  'right of',
  'above',
  'below',
  'inside',
  'surrounding',
)
_IN_IMAGE, _LEFT, _RIGHT, _ABOVE, _BELOW, _INSIDE, _SURROUNDING = range(7)
_STREAM = 7  # word of the hash of these draws


def instance_letters(rank: int) -> str:
  """Returns A, B, ..., Z, AB, AC, ... for 0, 1, ...; there is no AA."""
  if rank < 26:
    return chr(ord('A') + rank)
  first, second = divmod(rank - 25, 26)
  return chr(ord('A') + first) + chr(ord('A') + second)


def graph_text(
  names: Sequence[str],
  triples: np.ndarray,
  predicates: Sequence[str] = PREDICATES,
) -> str:
  """Writes a graph as 'man A riding horse , man B next to tree'.

  Follows Frido's scripts/preprocess_vg_to_sg.py: a letter follows a name that
  several objects of the relations share, in order of first appearance (subject
  before object). Rows with a negative entry (padding) and '__in_image__' are
  left out.

  Args:
    names: the names of all objects, by index.
    triples: (T, 3) integers (subject index, predicate id, object index).
    predicates: names by id.
  """
  rows = [
    (int(s), predicates[p], int(o))
    for s, p, o in np.asarray(triples).reshape(-1, 3)
    if min(s, p, o) >= 0 and predicates[p] != PREDICATES[_IN_IMAGE]
  ]
  instances: dict[str, list[int]] = {}
  for subject, _, target in rows:
    for index in (subject, target):
      seen = instances.setdefault(names[index], [])
      if index not in seen:
        seen.append(index)

  def noun(index: int) -> str:
    seen = instances[names[index]]
    if len(seen) == 1:
      return names[index]
    return f'{names[index]} {instance_letters(seen.index(index))}'

  return ' , '.join(f'{noun(s)} {p} {noun(o)}' for s, p, o in rows)


def predicate_ids(
  subjects: np.ndarray,
  objects: np.ndarray,
  subject_centres: np.ndarray,
  object_centres: np.ndarray,
  margin_degrees: float = 0.0,
) -> np.ndarray:
  """Returns the sg2im predicate of pairs of boxes, -1 within the margin.

  'surrounding' and 'inside' need strict containment; otherwise the angle of
  the difference of centres (y downwards) selects one of four sectors of 90
  degrees.

  Args:
    subjects: (..., 4) x0, y0, x1, y1.
    objects: (..., 4) x0, y0, x1, y1.
    subject_centres: (..., 2) x, y.
    object_centres: (..., 2) x, y.
    margin_degrees: smallest distance of the angle to a border between sectors.

  Returns:
    (...,) int32 indices into `PREDICATES`.
  """
  d = np.asarray(subject_centres, np.float64) - object_centres
  dx, dy = d[..., 0], d[..., 1]
  # Comparisons instead of atan2, so that diagonals are exact. A border belongs
  # to the sector that begins there, except that 'left of' owns both of its.
  left = (dx < 0) & (np.abs(dy) <= -dx)
  above = (dy < 0) & (-dy > np.abs(dx))
  below = (dy > 0) & (dy >= dx) & ~left
  predicate = np.select([left, above, below], [_LEFT, _ABOVE, _BELOW], _RIGHT)
  if margin_degrees > 0:
    angle = np.degrees(np.arctan2(dy, dx))
    distance = 45 - np.abs((angle + 45) % 90 - 45)
    predicate = np.where(distance >= margin_degrees, predicate, -1)
  low_s, high_s = subjects[..., :2], subjects[..., 2:]
  low_o, high_o = objects[..., :2], objects[..., 2:]
  surrounding = np.all((low_s < low_o) & (high_s > high_o), axis=-1)
  inside = np.all((low_s > low_o) & (high_s < high_o), axis=-1)
  predicate = np.where(inside, _INSIDE, predicate)
  return np.where(surrounding, _SURROUNDING, predicate).astype(np.int32)


def relations_from_boxes(
  boxes: np.ndarray,
  n_boxes: np.ndarray,
  draws: np.ndarray,
  centres: np.ndarray | None = None,
  margin_degrees: float = 0.0,
  in_image: bool = False,
) -> np.ndarray:
  """Returns triples by sg2im's rule: one relation for each object.

  The other object is random, and a fair coin orders the pair (google/sg2im:
  sg2im/data/coco.py). Both are hashes of (draw, object), so the triples are a
  function of the arguments.

  Args:
    boxes: (..., N, 4) x0, y0, x1, y1, y downwards.
    n_boxes: (...) int, the number of valid boxes, which come first.
    draws: (...) uint64, the seed of each example.
    centres: (..., N, 2), e.g. centroids of masks; None: centres of the boxes.
    margin_degrees: the margin of `predicate_ids`; closer pairs have no relation
      (data from pixels: 8).
    in_image: whether `(i, 0, n_boxes)` follows for every object i, where node
      `n_boxes` is the image.

  Returns:
    (..., N, 3) int32, or (..., 2 * N, 3) with `in_image`: (subject, predicate,
    object), padded with -1 at the end.
  """
  boxes = np.asarray(boxes, np.float64)
  n_boxes = np.asarray(n_boxes)[..., None]
  draws = np.asarray(draws, np.uint64)[..., None]
  if centres is None:
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
  one = np.arange(boxes.shape[-2])
  other = hashing.below(np.maximum(n_boxes - 1, 1), draws, _STREAM, 2 * one)
  other += other >= one  # skips the object itself
  valid = (one < n_boxes) & (n_boxes > 1)
  other = np.where(valid, other, 0)
  first = hashing.uniforms(draws, _STREAM, 2 * one + 1) > 0.5
  subject = np.where(first, one, other)
  target = np.where(first, other, one)

  def rows(values, index):
    return np.take_along_axis(values, index[..., None], axis=-2)

  predicate = predicate_ids(
    rows(boxes, subject),
    rows(boxes, target),
    rows(centres, subject),
    rows(centres, target),
    margin_degrees,
  )
  valid = valid & (predicate >= 0)
  triples = np.stack([subject, predicate, target], axis=-1)
  if in_image:
    columns = np.broadcast_arrays(one, _IN_IMAGE, n_boxes, subject)[:3]
    extra = np.stack(columns, axis=-1)
    triples = np.concatenate([triples, extra], axis=-2)
    valid = np.concatenate([valid, one < n_boxes], axis=-1)
  triples = np.where(valid[..., None], triples, -1)
  order = np.argsort(~valid, axis=-1, stable=True)
  return rows(triples, order).astype(np.int32)
