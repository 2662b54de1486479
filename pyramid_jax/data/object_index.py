"""Which images and objects of an annotated data set make a split.

Indices of large annotation files are kept between runs.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data import annotation_files
from pyramid_jax.data import index_cache


Arrays = index_cache.Arrays
# Below this, reading the files again is faster than it is worth a cache.
MIN_BYTES = 16 << 20
_VERSION = 3  # of what an index holds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objects:
  """All M objects of a data set, in the order of its files."""

  image: np.ndarray  # (M,) int64, the position of each object's image
  boxes: np.ndarray  # (M, 4) float64 x0, y0, x1, y1 of the full image
  area: np.ndarray  # (M,) float64, of the box as a part of the image
  labels: np.ndarray  # (M,) int32, 1 + category number
  flags: np.ndarray  # (M,) int32 `box_flags`
  centroids: np.ndarray  # (M, 2) float64, of the mask, as parts of the box


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


def load_ids(path: pathlib.Path) -> set[int]:
  """Reads a file of image ids, one a line, leading zeros or not.

  Raises:
    UserError: a line is not a number.
  """
  ids = set()
  for number, line in annotation_files.load_lines(path):
    if not line.isdecimal() or len(line) > 18:
      annotation_files.fail(
        path, f'line {number}', f'must be an image id, got {line!r:.60}'
      )
    ids.add(int(line))
  return ids


def select(
  image_ids: Sequence[int],
  files: Sequence[tuple[str, float, float]],
  objects: Objects,
  filters: Filters,
  names: Sequence[str],
  only: set[int] | None = None,
  captions: Mapping[int, str] | None = None,
) -> Index:
  """Applies the filters and sorts the images by id, as strings.

  An image without any object is left out even when none is required; one whose
  objects are all too small is not. `files` are paths with width and height;
  `only` are the ids to keep, None = all; images without one of the `captions`
  by id are left out, None = all are kept.
  """
  count = len(image_ids)
  has_any = np.bincount(objects.image, minlength=count) > 0
  large = objects.area > filters.min_area
  kept = np.bincount(objects.image[large], minlength=count)
  passed = has_any & (kept >= filters.min_objects)
  passed &= kept <= filters.max_objects
  chosen = [
    (str(image_ids[i]), i)
    for i in np.flatnonzero(passed).tolist()
    if (only is None or image_ids[i] in only)
    and (captions is None or image_ids[i] in captions)
  ]
  positions = [i for _, i in sorted(chosen)]
  order = np.array(positions, np.int64)
  rank = np.full(count, -1)
  rank[order] = np.arange(len(order))

  row = np.where(large, rank[objects.image], -1)
  rows = np.argsort(row, kind='stable')[np.count_nonzero(row < 0) :]
  starts = np.concatenate([[0], np.cumsum(kept[order])])
  said = [captions[image_ids[i]] for i in positions] if captions else []
  return Index(
    ids=np.array([image_ids[i] for i in positions], np.int64),
    files=np.array([files[i][0].encode() for i in positions], np.bytes_),
    sizes=np.array([files[i][1:] for i in positions], float).reshape(-1, 2),
    starts=starts.astype(np.int64),
    boxes=objects.boxes[rows],
    labels=objects.labels[rows],
    flags=objects.flags[rows],
    centroids=objects.centroids[rows],
    captions=np.array([text.encode() for text in said], np.bytes_),
    names=np.array([name.encode() for name in names], np.bytes_),
    faults=np.array([], np.bytes_),
  )


def load_or_build(
  files: Sequence[pathlib.Path],
  options: Mapping,
  build: Callable[[], Arrays],
  cache: pathlib.Path | None = None,
) -> Arrays:
  """Returns `build()`, or what it returned for the same files and options.

  Files are the same if path, size and time of change are. The index of small
  files is not kept.

  Args:
    files: what is read.
    options: JSON values on which `build` depends besides `files`.
    build: makes the arrays, which hold no Python objects.
    cache: see `index_cache.folder`; None for that of the user.
  """
  stats = [(file, file.stat()) for file in files]
  if sum(stat.st_size for _, stat in stats) < MIN_BYTES:
    return build()
  facts = [
    (str(file.resolve()), stat.st_size, stat.st_mtime_ns)
    for file, stat in stats
  ]

  def said() -> Arrays:
    logging.info('Indexing %s', ', '.join(map(str, files)))
    return build()

  cache = index_cache.user_folder() if cache is None else cache
  return index_cache.load_or_build(cache, [_VERSION, facts, options], said)
