"""The official files of Visual Genome as arrays.

Objects and relationships have 0.4 and 0.7 GB of JSON; they are read one image
after the other.
"""

import array
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax.conditioning import hashing
from pyramid_jax.data.objects import sg2im_graphs
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.files import json_items


SPLITS = ('train', 'val', 'test')
# Shares of an own split in tenths, and the word of the hash that draws it.
_TENTHS, _HASHED = (8, 9, 10), 109
_MOST_NAMES = 32  # of an object
_LOG_SECS = 10
_INTEGER = annotation_files.INTEGER
_IMAGE_FIELDS = {
  'image_id': _INTEGER,
  'url': annotation_files.TEXT,
  'width': annotation_files.POSITIVE,
  'height': annotation_files.POSITIVE,
}
_OBJECT_FIELDS = {
  'object_id': _INTEGER,
  'names': annotation_files.LIST,
  **dict.fromkeys('xywh', annotation_files.NUMBER),
}
_RELATION_FIELDS = {
  'predicate': annotation_files.TEXT,
  'subject': annotation_files.OBJECT,
  'object': annotation_files.OBJECT,
}
Aliases = Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
  """The N images that are in a split and large enough."""

  ids: np.ndarray  # (N,) int64
  splits: np.ndarray  # (N,) int8, position in `SPLITS`
  files: np.ndarray  # (N,) bytes, such as VG_100K_2/1.jpg
  sizes: np.ndarray  # (N, 2) float64, width and height in px
  dropped: dict[str, int]  # images by the reason
  faults: Sequence[str]


def load_splits(path: pathlib.Path) -> dict[int, int]:
  """Returns the position in `SPLITS` of images by id.

  The file is vg_splits.json of google/sg2im: lists of image ids by split.

  Raises:
    UserError: it is something else.
  """
  document = annotation_files.load_json(path)
  found: dict[int, int] = {}
  for number, split in enumerate(SPLITS):
    ids = document.get(split)
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
      annotation_files.fail(path, f'"{split}"', 'must be a list of image ids')
    found |= dict.fromkeys(ids, number)
  return found


def own_splits(ids: np.ndarray) -> np.ndarray:
  """Returns a split (N,) int8 for each image id (N,), drawn by a hash of it.

  Of ten images about eight are for training, and one each for val and test.
  """
  drawn = hashing.below(10, np.asarray(ids, np.uint64), _HASHED, 0)
  return np.searchsorted(_TENTHS, drawn, side='right').astype(np.int8)


def load_aliases(path: pathlib.Path) -> Aliases:
  """Returns the first of the names in a line, by each of them."""
  aliases: dict[str, str] = {}
  for _, line in annotation_files.load_lines(path):
    names = [name.strip() for name in line.split(',')]
    aliases |= dict.fromkeys(names, names[0])
  return aliases


def load_images(
  path: pathlib.Path, splits: Mapping[int, int] | None, min_side_px: int
) -> Images:
  """Reads image_data.json.

  Args:
    path: the file.
    splits: by image id, see `load_splits`; None: `own_splits`.
    min_side_px: images with a shorter side are dropped.
  """
  entries = annotation_files.Entries(path, 'images', _IMAGE_FIELDS)
  found: dict[int, tuple[str, float, float]] = {}
  dropped = {'in no split': 0, f'a side below {min_side_px} px': 0}
  for i, entry in entries.checked(_items(path)):
    key, size = entry['image_id'], (entry['width'], entry['height'])
    parts = entry['url'].split('/')[-2:]
    if len(parts) < 2 or not all(map(_is_name, parts)):
      entries.leave_out(i, f'has "url": {entry["url"]!r:.60}')
    elif splits is not None and key not in splits:
      dropped['in no split'] += 1
    elif min(size) < min_side_px:
      dropped[f'a side below {min_side_px} px'] += 1
    else:
      found[key] = ('/'.join(parts), *size)
  ids = np.array(list(found), np.int64)
  return Images(
    ids=ids,
    splits=own_splits(ids)
    if splits is None
    else np.array([splits[i] for i in found], np.int8),
    files=np.array([x[0].encode() for x in found.values()], np.bytes_),
    sizes=np.array([x[1:] for x in found.values()], float).reshape(-1, 2),
    dropped=dropped,
    faults=entries.check(),
  )


def _is_name(part: str) -> bool:
  return part not in ('', '.', '..') and '\\' not in part


def load_graphs(
  files: Mapping[str, pathlib.Path], images: Images
) -> tuple[sg2im_graphs.Raw, list[str]]:
  """Reads objects and relationships, and says what is left out.

  Predicates are in lower case and without aliases in training alone: those of
  other images are compared as they are, as in the published splits.

  Args:
    files: objects, relationships, object_alias, relationship_alias.
    images: whose they are.
  """
  objects, faults = _load_objects(
    files['objects'], images, load_aliases(files['object_alias'])
  )
  relations, more = _load_relations(
    files['relationships'], images, load_aliases(files['relationship_alias'])
  )
  return sg2im_graphs.Raw(**objects, **relations), [*faults, *more]


def _load_objects(
  path: pathlib.Path, images: Images, aliases: Aliases
) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields of `sg2im_graphs.Raw` about objects."""
  numbers: dict[str, int] = {}
  positions, ids, boxes = array.array('q'), array.array('q'), array.array('d')
  named, counts = array.array('i'), array.array('i')
  entries = annotation_files.Entries(path, 'objects', _OBJECT_FIELDS)
  for position, image in _of_images(path, images, 'objects'):
    for i, entry in entries.checked(image['objects']):
      names = entry['names']
      if len(names) > _MOST_NAMES or not all(isinstance(n, str) for n in names):
        entries.leave_out(i, f'has "names": {names!r:.60}')
        continue
      positions.append(position)
      ids.append(entry['object_id'])
      boxes.extend(entry[side] for side in 'xywh')
      counts.append(len(names))
      for name in names:
        name = aliases.get(name, name)
        named.append(numbers.setdefault(name, len(numbers)))
  return {
    'image': np.array(positions, np.int64),
    'object_ids': np.array(ids, np.int64),
    'xywh': np.array(boxes, np.float64).reshape(-1, 4),
    'named': _table(np.array(named, np.int32), np.array(counts, np.int64)),
    'names': list(numbers),
  }, entries.check()


def _table(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Returns rows of `counts` values each, filled up with -1."""
  table = np.full((len(counts), max(counts.max(initial=1), 1)), -1, np.int32)
  table[np.arange(table.shape[1]) < counts[:, None]] = values
  return table


def _load_relations(
  path: pathlib.Path, images: Images, aliases: Aliases
) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields of `sg2im_graphs.Raw` about relations."""
  numbers: dict[str, int] = {}
  positions, subjects = array.array('q'), array.array('q')
  objects, predicates = array.array('q'), array.array('i')
  entries = annotation_files.Entries(path, 'relationships', _RELATION_FIELDS)
  for position, image in _of_images(path, images, 'relationships'):
    is_train = images.splits[position] == 0
    for i, entry in entries.checked(image['relationships']):
      ends = [entry[end].get('object_id') for end in ('subject', 'object')]
      if not all(type(end) is int and abs(end) < 1 << 63 for end in ends):
        entries.leave_out(i, f'has the object ids {ends!r:.60}')
        continue
      predicate = entry['predicate']
      if is_train:
        predicate = predicate.lower().strip()
        predicate = aliases.get(predicate, predicate)
      positions.append(position)
      subjects.append(ends[0])
      objects.append(ends[1])
      predicates.append(numbers.setdefault(predicate, len(numbers)))
  return {
    'relation_image': np.array(positions, np.int64),
    'subjects': np.array(subjects, np.int64),
    'objects': np.array(objects, np.int64),
    'predicates': np.array(predicates, np.int32),
    'predicate_names': list(numbers),
  }, entries.check()


def _of_images(
  path: pathlib.Path, images: Images, name: str
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (position, entry) of the images whose lists `name` are wanted."""
  places = {key: i for i, key in enumerate(images.ids.tolist())}
  fields = {'image_id': _INTEGER, name: annotation_files.LIST}
  entries = annotation_files.Entries(path, 'images', fields)
  for i, entry in entries.checked(_items(path)):
    logging.log_every_n_seconds(
      logging.INFO, '%s: %d images are read', _LOG_SECS, path, i
    )
    place = places.get(entry['image_id'])
    if place is not None:
      yield place, entry
  for line in entries.check():
    logging.warning('%s', line)


def _items(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  try:
    yield from json_items.read(path)
  except ValueError as error:
    raise errors.UserError(f'{error}.', errors.DATA) from None
