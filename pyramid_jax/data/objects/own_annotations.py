"""Objects of one's own images: `layouts.json` and `graphs.jsonl`.

`layouts.json` is one object in the manner of COCO:

  {"images": [{"id": 1, "file_name": "a/1.jpg", "width": 640, "height": 480}],
   "categories": [{"id": 1, "name": "cat"}],
   "annotations": [{"image_id": 1, "category_id": 1,
                    "bbox": [x, y, width, height]}]}

with boxes in pixels and `"iscrowd": 1` for a box around a group. `graphs.jsonl`
has an image in each line:

  {"file": "a/1.jpg",
   "objects": [{"label": "man", "box": [0.1, 0.1, 0.4, 0.9]},
               {"label": "horse"}],
   "relations": [[0, "riding", 1]]}

with boxes x0, y0, x1, y1 as parts of the image; an object without one may be
anywhere, which is the box of the whole image. Where no line has `relations`,
boxes are related by rule.

A mistake is refused with its place: what is left out of one's own data should
be left out on purpose.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import limits
from pyramid_jax.data import category_lists
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.objects import object_index
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.data.storage import listing
from pyramid_jax.files import json_text


# The lists of layouts.json, and the fields of their entries.
_FIELDS: Mapping[str, Mapping[str, str]] = {
  'images': {
    'id': annotation_files.INTEGER,
    'file_name': annotation_files.TEXT,
    'width': annotation_files.POSITIVE,
    'height': annotation_files.POSITIVE,
  },
  'categories': {
    'id': annotation_files.INTEGER,
    'name': annotation_files.TEXT,
  },
  'annotations': {
    'image_id': annotation_files.INTEGER,
    'category_id': annotation_files.INTEGER,
    'bbox': annotation_files.BBOX,
  },
}
_WHOLE = (0.0, 0.0, 1.0, 1.0)  # the box of an object without one
_NAME = 200  # characters of a label or a predicate


def layouts(
  config: ConfigDict, split: str, path: pathlib.Path
) -> index_cache.Arrays:
  """Returns the fields of the index of a `layouts.json`.

  Raises:
    UserError: an entry is not as the module says; the message has its place.
  """
  document = annotation_files.load_json(path)
  images, categories, annotations = (
    annotation_files.Section(path, document, name, fields).whole()
    for name, fields in _FIELDS.items()
  )
  rows: dict[int, int] = {}
  for i, entry in enumerate(images):
    where = f'images[{i}]'
    _check_file(path, where, entry['file_name'])
    if entry['id'] in rows:
      annotation_files.fail(path, where, f'has the "id" {entry["id"]} again')
    rows[entry['id']] = i
  names: dict[int, str] = {}
  for i, entry in enumerate(categories):
    if entry['id'] in names:
      annotation_files.fail(
        path, f'categories[{i}]', f'has the "id" {entry["id"]} again'
      )
    names[entry['id']] = entry['name']
  for i, entry in enumerate(annotations):
    for key, known in (('image_id', rows), ('category_id', names)):
      if entry[key] not in known:
        annotation_files.fail(
          path,
          f'annotations[{i}]',
          f'has "{key}": {entry[key]}, which nothing in'
          f' "{"images" if known is rows else "categories"}" has',
        )
  image = np.array([rows[x['image_id']] for x in annotations], np.int64)
  sizes = np.array([[x['width'], x['height']] for x in images], np.float64)
  xywh = np.array([x['bbox'] for x in annotations], np.float64).reshape(-1, 4)
  xywh = xywh / np.tile(sizes.reshape(-1, 2), 2)[image]
  numbers, label_names = category_lists.numbered(config, names)
  labels = [numbers[entry['category_id']] for entry in annotations]
  return _selected(
    object_index.Images.of(
      {x['id']: (x['file_name'], x['width'], x['height']) for x in images}
    ),
    object_index.Objects(
      image=image,
      boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
      area=xywh[:, 2] * xywh[:, 3],
      labels=np.array(labels, np.int32),
      flags=np.array([bool(x.get('iscrowd')) for x in annotations], np.int32),
      centroids=np.zeros((0, 2)),
    ),
    object_index.Filters.of(config, split),
    label_names,
    None,
  )


def graphs(
  config: ConfigDict, split: str, path: pathlib.Path
) -> index_cache.Arrays:
  """Returns the fields of the index of a `graphs.jsonl`, see `layouts`."""
  files: dict[str, int] = {}
  image: list[int] = []
  names: list[str] = []
  boxes: list[tuple[float, ...]] = []
  related: list[tuple[int, str, int]] = []
  is_related = False
  for number, line in annotation_files.load_lines(path):
    where = f'line {number}'
    entry = _line(path, where, line)
    if entry['file'] in files:
      annotation_files.fail(path, where, f'has {entry["file"]!r:.60} again')
    first, row = len(names), len(files)
    files[entry['file']] = row
    for i, thing in enumerate(entry['objects']):
      label, box = _object(path, f'{where}: objects[{i}]', thing)
      image.append(row)
      names.append(label)
      boxes.append(box)
    is_related |= 'relations' in entry
    for i, triple in enumerate(entry.get('relations', ())):
      place = f'{where}: relations[{i}]'
      subject, predicate, target = _relation(
        path, place, triple, len(names) - first
      )
      related.append((first + subject, predicate, first + target))
  numbers, label_names = category_lists.numbered(
    config, {name: name for name in names}
  )
  corners = np.array(boxes, np.float64).reshape(-1, 4)
  return _selected(
    object_index.Images(
      ids=np.arange(len(files)),
      keys=np.array([name.encode() for name in files], np.bytes_),
      files=np.array([name.encode() for name in files], np.bytes_),
      sizes=np.zeros((len(files), 2)),
    ),
    object_index.Objects(
      image=np.array(image, np.int64),
      boxes=corners,
      area=(corners[:, 2:] - corners[:, :2]).prod(axis=1),
      labels=np.array([numbers[name] for name in names], np.int32),
      flags=np.zeros(len(names), np.int32),
      centroids=np.zeros((0, 2)),
    ),
    object_index.Filters.of(config, split),
    label_names,
    _relations(related) if is_related else None,
  )


def _selected(
  images: object_index.Images,
  objects: object_index.Objects,
  filters: object_index.Filters,
  names: tuple[str, ...],
  relations: object_index.Relations | None,
) -> index_cache.Arrays:
  """Applies the filters; objects without a label stay away."""
  kept = objects.labels > 0
  if relations is not None:
    place = np.cumsum(kept) - 1
    both = kept[relations.subjects] & kept[relations.objects]
    relations = object_index.Relations(
      subjects=place[relations.subjects[both]],
      predicates=relations.predicates[both],
      objects=place[relations.objects[both]],
      names=relations.names,
    )
  objects = object_index.Objects(
    image=objects.image[kept],
    boxes=objects.boxes[kept],
    area=objects.area[kept],
    labels=objects.labels[kept],
    flags=objects.flags[kept],
    centroids=objects.centroids,
  )
  index = object_index.select(
    images, objects, filters, names, relations=relations
  )
  return vars(index)


def _relations(related: list[tuple[int, str, int]]) -> object_index.Relations:
  names = sorted({predicate for _, predicate, _ in related})
  ids = {name: i for i, name in enumerate(names)}
  return object_index.Relations(
    subjects=np.array([subject for subject, _, _ in related], np.int64),
    predicates=np.array([ids[x] for _, x, _ in related], np.int32),
    objects=np.array([target for _, _, target in related], np.int64),
    names=np.array([name.encode() for name in names], np.bytes_),
  )


def _line(path: pathlib.Path, where: str, line: str) -> dict[str, Any]:
  """Returns the object of a line; its lists are not looked into."""
  try:
    entry = json_text.loads(line, most=limits.LINE_CHARACTERS)
  except ValueError as error:
    annotation_files.fail(path, where, f'is {error}')
  is_whole = (
    isinstance(entry, dict)
    and isinstance(entry.get('file'), str)
    and isinstance(entry.get('objects'), list)
    and isinstance(entry.get('relations', []), list)
  )
  if not is_whole:
    annotation_files.fail(
      path,
      where,
      'must be {"file": TEXT, "objects": [...]}, with "relations": [...] or'
      f' without, got {line!r:.60}',
    )
  _check_file(path, where, entry['file'])
  entry['file'] = pathlib.PurePosixPath(entry['file']).as_posix()
  return entry


def _object(
  path: pathlib.Path, where: str, thing: Any
) -> tuple[str, tuple[float, ...]]:
  """Returns the label and the box of an object."""
  label: Any = thing.get('label') if isinstance(thing, dict) else None
  if not _is_name(label):
    annotation_files.fail(
      path, where, f'must be {{"label": TEXT}}, got {thing!r:.60}'
    )
  box = thing.get('box', _WHOLE)
  is_box = (
    isinstance(box, list | tuple)
    and len(box) == 4
    and all(annotation_files.is_number(x) and 0 <= x <= 1 for x in box)
    and box[0] < box[2]
    and box[1] < box[3]
  )
  if not is_box:
    annotation_files.fail(
      path,
      where,
      f'has "box": {box!r:.60}, must be [x0, y0, x1, y1], rising, in [0, 1]',
    )
  return listing.normal_form(label.strip()), tuple(map(float, box))


def _relation(
  path: pathlib.Path, where: str, triple: Any, count: int
) -> tuple[int, str, int]:
  """Returns subject, predicate and object of one of `count` objects."""
  is_end = lambda x: type(x) is int and 0 <= x < count
  is_triple = (
    isinstance(triple, list)
    and len(triple) == 3
    and is_end(triple[0])
    and is_end(triple[2])
    and triple[0] != triple[2]
    and _is_name(triple[1])
  )
  if not is_triple:
    annotation_files.fail(
      path,
      where,
      'must be [SUBJECT, TEXT, OBJECT] with two numbers below'
      f' {count}, the objects of the line, got {triple!r:.60}',
    )
  return triple[0], triple[1].strip(), triple[2]


def _is_name(value: Any) -> bool:
  is_text = isinstance(value, str) and bool(value.strip())
  return is_text and len(value) <= _NAME and '\0' not in value


def _check_file(path: pathlib.Path, where: str, name: str) -> None:
  parts = pathlib.PurePosixPath(name).parts
  if not parts or parts[0] == '/' or '..' in parts or '\0' in name:
    annotation_files.fail(
      path, where, f'has the file {name!r:.60}, must be inside of the folder'
    )
