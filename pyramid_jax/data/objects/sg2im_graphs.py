"""Which objects and relations of Visual Genome models are trained on.

The vocabularies and filters of google/sg2im: scripts/preprocess_vg.py, with its
default values, as functions of arrays. With the official files and splits they
leave 178 names of objects; 45 predicates are said to be left, which nobody here
has counted.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np


IN_IMAGE = '__in_image__'  # predicate 0, which no relation of the data has
IMAGE = '__image__'  # category 0, which no object of the data has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
  """The numbers of the filters."""

  min_side_px: int = 200  # of an image
  min_instances: int = 2000  # of a name of objects, in training
  min_object_px: int = 32  # of both sides of a box
  min_relations: int = 500  # of a predicate, in training
  objects: tuple[int, int] = (3, 30)  # of an image
  relations: tuple[int, int] = (1, 30)  # of an image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Raw:
  """M objects and R relations as the files have them, aliases replaced."""

  image: np.ndarray  # (M,) int64, position of each object's image
  object_ids: np.ndarray  # (M,) int64
  xywh: np.ndarray  # (M, 4) float64, px
  # (M, W) int32, names of each object as rows of `names`, -1 = no more
  named: np.ndarray
  names: Sequence[str]
  relation_image: np.ndarray  # (R,) int64
  subjects: np.ndarray  # (R,) int64 object ids
  objects: np.ndarray  # (R,) int64 object ids
  # (R,) int32 rows of `predicate_names`
  predicates: np.ndarray
  predicate_names: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graphs:
  """The images that are left, with their objects and relations."""

  images: np.ndarray  # (N,) bool, of all images
  rows: np.ndarray  # (m,) int64, the objects that are left
  categories: np.ndarray  # (m,) int32, rows of `names`
  names: Sequence[str]  # of categories; the first is `IMAGE`
  relations: np.ndarray  # (r, 3) int64: subject, predicate, object
  predicate_names: Sequence[str]  # the first is `IN_IMAGE`
  dropped: dict[str, int]  # images by the reason


def select(raw: Raw, train: np.ndarray, rules: Rules) -> Graphs:
  """Applies the vocabularies and filters.

  Args:
    raw: of images that are large enough and in a split.
    train: (N,) bool, the images by which names are counted.
    rules: the numbers.

  Returns:
    The graphs; subjects and objects are positions in `rows`.
  """
  names, category = _categories(raw, train, rules)
  large = (raw.xywh[:, 2:] >= rules.min_object_px).all(axis=-1)
  rows = np.flatnonzero((category > 0) & large)
  ends = _ends(raw, rows)
  both = ends.min(axis=-1) >= 0
  predicate_names, predicate = _predicates(raw, train, both, rules)
  kept = both & (predicate > 0)
  relations = np.stack([ends[:, 0], predicate, ends[:, 1]], axis=-1)[kept]

  count = len(train)
  in_image = {
    'objects': np.bincount(raw.image[rows], minlength=count),
    'relations': np.bincount(raw.relation_image[kept], minlength=count),
  }
  images = np.ones(count, bool)
  dropped = {}
  for what, (low, high) in (
    ('objects', rules.objects),
    ('relations', rules.relations),
  ):
    for reason, passed in (
      (f'fewer than {low} {what}', in_image[what] >= low),
      (f'more than {high} {what}', in_image[what] <= high),
    ):
      dropped[reason] = int(np.count_nonzero(images & ~passed))
      images &= passed
  stays = images[raw.image[rows]]
  place = np.cumsum(stays) - 1
  relations = relations[images[raw.relation_image[kept]]]
  relations[:, [0, 2]] = place[relations[:, [0, 2]]]
  return Graphs(
    images=images,
    rows=rows[stays],
    categories=category[rows[stays]],
    names=names,
    relations=relations,
    predicate_names=predicate_names,
    dropped=dropped,
  )


def _categories(
  raw: Raw, train: np.ndarray, rules: Rules
) -> tuple[list[str], np.ndarray]:
  """Returns the names of categories and the category of each object, 0 = none.

  Names are in the order of their counts, names of equal counts in that of their
  first appearance; an object has the category of the first of its names that is
  frequent.
  """
  counted = raw.named[train[raw.image]]
  flat = counted[counted >= 0]
  counts = np.bincount(flat, minlength=len(raw.names))
  # A name that an object has twice counts once.
  for column in range(1, counted.shape[1]):
    again = (counted[:, :column] == counted[:, column : column + 1]).any(-1)
    again &= counted[:, column] >= 0
    counts -= np.bincount(counted[again, column], minlength=len(raw.names))
  present, first = np.unique(flat, return_index=True)
  appeared = np.full(len(raw.names), len(flat))
  appeared[present] = first
  order = np.lexsort((appeared, -counts))
  order = order[counts[order] >= rules.min_instances]
  number = np.zeros(len(raw.names) + 1, np.int32)  # the last is for -1
  number[order] = np.arange(1, len(order) + 1)
  numbers = number[raw.named]
  frequent = np.argmax(numbers > 0, axis=-1)
  category = np.take_along_axis(numbers, frequent[:, None], axis=-1)[:, 0]
  return [IMAGE, *(raw.names[i] for i in order)], category


def _ends(raw: Raw, rows: np.ndarray) -> np.ndarray:
  """Returns subject and object (R, 2) of relations in `rows`, -1 = not there.

  Of objects of one image with the same id the last counts.
  """
  if not len(rows):
    return np.full((len(raw.subjects), 2), -1)
  ids, number = np.unique(raw.object_ids[rows], return_inverse=True)
  key = raw.image[rows] * len(ids) + number
  order = np.argsort(key, kind='stable')
  key = key[order]
  ends = []
  for end in (raw.subjects, raw.objects):
    number = np.searchsorted(ids, end).clip(max=len(ids) - 1)
    wanted = raw.relation_image * len(ids) + number
    place = np.searchsorted(key, wanted, side='right') - 1
    known = (ids[number] == end) & (place >= 0) & (key[place] == wanted)
    ends.append(np.where(known, order[place], -1))
  return np.stack(ends, axis=-1)


def _predicates(
  raw: Raw, train: np.ndarray, both: np.ndarray, rules: Rules
) -> tuple[list[str], np.ndarray]:
  """Returns the predicates, and the id (R,) of each relation's, 0 = none.

  Predicates are in the order of their first appearance in training.
  """
  counted = raw.predicates[both & train[raw.relation_image]]
  present, first, counts = np.unique(
    counted, return_index=True, return_counts=True
  )
  order = np.argsort(first)
  order = order[counts[order] >= rules.min_relations]
  number = np.zeros(len(raw.predicate_names), np.int32)
  number[present[order]] = np.arange(1, len(order) + 1)
  names = [IN_IMAGE, *(raw.predicate_names[i] for i in present[order])]
  return names, number[raw.predicates]
