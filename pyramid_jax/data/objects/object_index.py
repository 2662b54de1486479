"""Which images and objects of an annotated data set make a split."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
import re

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.storage import annotation_files


# Of an image id in a file, by its base.
_DIGITS = {
  10: re.compile('[0-9]{1,18}'),
  16: re.compile('[0-9a-fA-F]{1,16}'),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
  """All N images of a data set."""

  ids: np.ndarray  # (N,) int64
  keys: np.ndarray  # (N,) bytes, by which they are sorted
  files: np.ndarray  # (N,) bytes, paths inside of the image folder
  # (N, 2) float64, width and height in px; 0 where the annotation has none
  sizes: np.ndarray

  @classmethod
  def of(cls, images: Mapping[int, tuple[str, float, float]]) -> 'Images':
    """Returns images, given file, width and height by id; sorted by digits."""
    sizes = [entry[1:] for entry in images.values()]
    return cls(
      ids=np.array(list(images), np.int64),
      keys=np.array([str(key).encode() for key in images], np.bytes_),
      files=np.array([x[0].encode() for x in images.values()], np.bytes_),
      sizes=np.array(sizes, np.float64).reshape(-1, 2),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objects:
  """All M objects of a data set, in the order of its files."""

  image: np.ndarray  # (M,) int64, the position of each object's image
  boxes: np.ndarray  # (M, 4) float64 x0, y0, x1, y1 of the full image
  area: np.ndarray  # (M,) float64, of the box as a part of the image
  labels: np.ndarray  # (M,) int32, 1 + category number
  flags: np.ndarray  # (M,) int32 `box_flags`
  # (M, 2) float64, of the mask, as parts of the box; (0, 2): in the middle
  centroids: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relations:
  """All R relations of a data set, in the order of its files."""

  subjects: np.ndarray  # (R,) int64, positions among all objects
  predicates: np.ndarray  # (R,) int32, ids
  objects: np.ndarray  # (R,) int64, as `subjects`
  names: np.ndarray  # (P,) bytes, of the predicates by id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
  """The N images of a split that passed the filters, with their objects."""

  ids: np.ndarray  # (N,) int64
  files: np.ndarray  # (N,) bytes, paths inside of the image folder
  sizes: np.ndarray  # (N, 2) float64, width and height in the annotation, px
  # (N + 1,) int64; objects of image i are starts[i]:starts[i + 1]
  starts: np.ndarray
  boxes: np.ndarray  # this and the next three as in `Objects`
  labels: np.ndarray
  flags: np.ndarray
  centroids: np.ndarray
  captions: np.ndarray  # (N,) bytes, or (0,)
  names: np.ndarray  # (K + 1,) bytes, of the labels
  faults: np.ndarray  # bytes, a line for each list with entries left out
  # (T, 3) int32: subject, predicate, object; both ends count within an image
  triples: np.ndarray
  triple_starts: np.ndarray  # (N + 1,) int64, or (0,) without relations
  predicates: np.ndarray  # (P,) bytes, names of the predicates, or (0,)

  @property
  def has_relations(self) -> bool:
    """Whether the data set itself relates its objects."""
    return len(self.triple_starts) > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
  """Which objects and images of a split stay."""

  min_area: float  # an object stays if its box is strictly larger
  min_objects: int  # fewest of an image, counted after `min_area`
  max_objects: int  # most of an image

  @classmethod
  def of(cls, config: ConfigDict, split: str) -> 'Filters':
    """Reads `config.data` for a split."""
    d, train = config.data, split == 'train'
    return cls(
      min_area=d.min_area,
      min_objects=d.min_objects if train else d.eval_min_objects,
      max_objects=d.max_objects_image if train else d.eval_max_objects,
    )


def first_captions(captions: Iterable[tuple[int, str]]) -> dict[int, str]:
  """Maps an image id to its first caption."""
  first: dict[int, str] = {}
  for image_id, caption in captions:
    first.setdefault(image_id, caption)
  return first


def load_ids(path: pathlib.Path, base: int = 10) -> set[int]:
  """Reads a file of image ids, one a line, leading zeros or not.

  Ids of base 16 are those of Open Images, of up to 16 digits; see `signed`.

  Raises:
    UserError: a line is not a number.
  """
  digits = _DIGITS[base]
  ids = set()
  for number, line in annotation_files.load_lines(path):
    if not digits.fullmatch(line):
      annotation_files.fail(
        path, f'line {number}', f'must be an image id, got {line!r:.60}'
      )
    ids.add(signed(int(line, base)))
  return ids


def signed(value: int) -> int:
  """Returns the int64 of the same 64 bits as an integer in [0, 2^64)."""
  return value - (1 << 64) if value >> 63 else value


def select(
  images: Images,
  objects: Objects,
  filters: Filters,
  names: Sequence[str],
  only: set[int] | None = None,
  captions: Mapping[int, str] | None = None,
  relations: Relations | None = None,
) -> Index:
  """Applies the filters and sorts the images by their keys.

  An image without any object is left out even when none is required; one whose
  objects are all too small is not. `only` are the ids to keep, None = all;
  images without one of the `captions` by id are left out, None = all are kept.
  A relation stays if both of its ends do.
  """
  count = len(images.ids)
  has_any = np.bincount(objects.image, minlength=count) > 0
  large = objects.area > filters.min_area
  kept = np.bincount(objects.image[large], minlength=count)
  passed = has_any & (kept >= filters.min_objects)
  passed &= kept <= filters.max_objects
  for known in (only, captions):
    if known is not None:
      passed &= np.isin(images.ids, np.array(list(known), np.int64))
  order = np.flatnonzero(passed)
  order = order[np.argsort(images.keys[order], kind='stable')]
  rank = np.full(count, -1)
  rank[order] = np.arange(len(order))

  row = np.where(large, rank[objects.image], -1)
  rows = np.argsort(row, kind='stable')[np.count_nonzero(row < 0) :]
  starts = np.concatenate([[0], np.cumsum(kept[order])]).astype(np.int64)
  ids = images.ids[order]
  said = [captions[i] for i in ids.tolist()] if captions else []
  return Index(
    ids=ids,
    files=images.files[order],
    sizes=images.sizes[order],
    starts=starts,
    boxes=objects.boxes[rows],
    labels=objects.labels[rows],
    flags=objects.flags[rows],
    centroids=objects.centroids[rows if len(objects.centroids) else slice(0)],
    captions=np.array([text.encode() for text in said], np.bytes_),
    names=np.array([name.encode() for name in names], np.bytes_),
    faults=np.array([], np.bytes_),
    **_related(relations, row, rows, starts),
  )


def _related(
  relations: Relations | None,
  row: np.ndarray,
  rows: np.ndarray,
  starts: np.ndarray,
) -> index_cache.Arrays:
  """Returns the fields of `Index` about relations.

  Args:
    relations: those of all objects, or None.
    row: (M,) the place of each object's image in the index, -1 = left out.
    rows: the objects of the index.
    starts: their starts by image.
  """
  if relations is None:
    return {
      'triples': np.zeros((0, 3), np.int32),
      'triple_starts': np.zeros(0, np.int64),
      'predicates': np.array([], np.bytes_),
    }
  place = np.full(len(row), -1)
  place[rows] = np.arange(len(rows))
  subjects, objects = relations.subjects, relations.objects
  image = row[subjects]
  stays = (image >= 0) & (image == row[objects])
  order = np.flatnonzero(stays)
  order = order[np.argsort(image[order], kind='stable')]
  image = image[order]
  ends = [place[end[order]] - starts[image] for end in (subjects, objects)]
  triples = np.stack([ends[0], relations.predicates[order], ends[1]], axis=-1)
  counts = np.bincount(image, minlength=len(starts) - 1)
  return {
    'triples': triples.astype(np.int32),
    'triple_starts': np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    'predicates': relations.names,
  }
