"""COCO: images with captions, boxes of things and boxes of stuff.

The official files, unpacked in one folder per edition, which is
`config.data.root`, or `<year>` or `coco/<year>` inside of it:

  train2017/  val2017/
  annotations/{instances,captions,stuff}_{train,val}2017.json
  annotations/deprecated-challenge2017/{train,val}-ids.txt

and the same of 2014, which has no stuff. The val and test splits both read
the validation images, as the published evaluations do.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import csv
import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data import annotated_objects
from pyramid_jax.data import annotation_files
from pyramid_jax.data import index_cache
from pyramid_jax.data import object_index
from pyramid_jax.data import segmentations


YEARS = (2014, 2017)
Document = Mapping[str, Any]
# Category id -> label, 0 = dropped.
Labels = dict[int, int]

_IMAGE_FIELDS = {
  'id': annotation_files.is_int,
  'file_name': annotation_files.is_text,
  'width': annotation_files.is_positive,
  'height': annotation_files.is_positive,
}
_OBJECT_FIELDS = {
  'image_id': annotation_files.is_int,
  'category_id': annotation_files.is_int,
  'bbox': annotation_files.is_bbox,
}
_CAPTION_FIELDS = {
  'image_id': annotation_files.is_int,
  'caption': annotation_files.is_text,
}
_CATEGORY_FIELDS = {
  'id': annotation_files.is_int,
  'name': annotation_files.is_text,
}


def folder(config: ConfigDict) -> pathlib.Path:
  """Returns the folder that holds `annotations` of the configured edition.

  Raises:
    ValueError: an edition that does not exist, or stuff of 2014.
  """
  d = config.data
  if d.year not in YEARS:
    raise ValueError(f'config.data.year is {d.year}, must be 2014 or 2017.')
  if d.use_stuff and d.year == 2014:
    raise ValueError(
      'config.data.use_stuff is True, must be False for config.data.year = '
      '2014: stuff is annotated in the edition of 2017.'
    )
  root = pathlib.Path(d.root).expanduser()
  for candidate in (root, root / str(d.year), root / 'coco' / str(d.year)):
    if (candidate / 'annotations').is_dir():
      return candidate
  return root


def _listed(path: str, base: pathlib.Path) -> pathlib.Path:
  """A file named in the config: as it is, or within the data."""
  given = pathlib.Path(path).expanduser()
  for candidate in (given, base / given, base / 'annotations' / given):
    if candidate.is_file():
      return candidate
  return given


def _files(
  config: ConfigDict, split: str
) -> dict[str, tuple[pathlib.Path, str]]:
  """Returns {kind: (path, what it is for the user)} of a split."""
  d = config.data
  base = folder(config)
  part = f'{"train" if split == "train" else "val"}{d.year}'
  annotations = base / 'annotations'
  files = {
    'images': (base / part, 'image folder, config.data.root'),
    'instances': (
      annotations / f'instances_{part}.json',
      'COCO instances, config.data.root',
    ),
  }
  if d.use_stuff:
    files['stuff'] = (
      annotations / f'stuff_{part}.json',
      'COCO stuff, config.data.root',
    )
  if config.condition.task == 'text':
    files['captions'] = (
      annotations / f'captions_{part}.json',
      'COCO captions, config.data.root',
    )
  if d.category_file:
    path = _listed(d.category_file, base)
    files['categories'] = (path, 'MID,Name rows, config.data.category_file')
  field = 'ids_file' if split == 'train' else 'eval_ids_file'
  if d[field]:
    path = _listed(d[field], base)
    files['ids'] = (path, f'image ids, config.data.{field}')
  return files


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there.

  Raises:
    ValueError: see `folder`.
  """
  if not config.data.root:
    return ['the folder of COCO (config.data.root is empty)']
  lines = []
  for split in splits:
    for kind, (path, what) in _files(config, split).items():
      there = path.is_dir() if kind == 'images' else path.is_file()
      if not there:
        lines.append(f'{path} ({what})')
  return list(dict.fromkeys(lines))


def _load_mids(path: pathlib.Path) -> dict[str, str]:
  """Reads rows 'MID,Name'."""
  names = {}
  for number, line in annotation_files.load_lines(path):
    row = next(csv.reader([line]))
    if len(row) != 2:
      annotation_files.fail(
        path, f'line {number}', f'must be MID,Name, got {line!r:.60}'
      )
    names[row[0]] = row[1]
  return names


def number_labels(
  categories: Mapping[int, str], mids: Mapping[str, str] | None = None
) -> tuple[Labels, list[str]]:
  """Numbers the categories of COCO; 'other' is dropped.

  Without `mids` by the id as a string. With them a category takes the label
  of the MID of the same name (lower case, spaces or dashes), and the rest
  follows after all MIDs (Frido: annotated_objects_coco.py, `OI_cate_path`).

  Args:
    categories: {id: name} of things and stuff.
    mids: {MID: name}, e.g. the 601 boxable classes of OpenImages.

  Returns:
    {id: label}, and the names by label, the first of which is padding.
  """
  kept = {str(i): n for i, n in categories.items() if n != 'other'}
  known: dict[str, str] = {}
  numbers: dict[str, int] = {}
  names: dict[str, str] = {}
  if mids:
    lowered = {mid: name.lower() for mid, name in mids.items()}
    for mid, name in lowered.items():
      known.setdefault(name.replace(' ', '-'), mid)
    for mid, name in lowered.items():
      known.setdefault(name, mid)
    numbers = object_index.number_categories(list(mids))
    names = dict(mids)
  rest = [i for i, name in kept.items() if name.lower() not in known]
  for category, number in object_index.number_categories(rest).items():
    numbers[category] = number + len(mids or ())
    names[category] = kept[category]
  labels = {
    i: numbers[known.get(name.lower(), str(i))] if name != 'other' else 0
    for i, name in categories.items()
  }
  ordered = sorted(numbers, key=lambda category: numbers[category])
  return labels, ['', *(names[category] for category in ordered)]


@dataclasses.dataclass(frozen=True)
class _Image:
  """The row of an image, and its size in pixels."""

  row: int
  width: float
  height: float


def _load_images(
  path: pathlib.Path, document: Document
) -> tuple[dict[int, _Image], list[str]]:
  """Returns the images by id, and their files by row."""
  images: dict[int, _Image] = {}
  names: list[str] = []
  section = annotation_files.entries(path, document, 'images', _IMAGE_FIELDS)
  for i, entry in section:
    name = pathlib.PurePosixPath(entry['file_name'])
    if name.is_absolute() or '..' in name.parts:
      annotation_files.fail(
        path,
        f'images[{i}]',
        f'has "file_name": {str(name)!r:.60}, must be '
        'inside of the image folder',
      )
    if entry['id'] in images:
      annotation_files.fail(
        path, f'images[{i}]', f'has the "id" {entry["id"]} of another image'
      )
    images[entry['id']] = _Image(i, entry['width'], entry['height'])
    names.append(entry['file_name'])
  return images, names


def _part_of_box(
  path: pathlib.Path, i: int, entry: Document, image: _Image
) -> tuple[float, float]:
  """Where the centroid of an object's mask lies in its box."""
  x, y, width, height = entry['bbox']
  mask = entry.get('segmentation')
  try:
    centre = segmentations.centroid(mask) if mask else None
  except ValueError as error:
    annotation_files.fail(path, f'annotations[{i}]', f'has {error}')
  if centre is None or not width or not height:
    return 0.5, 0.5
  part = ((centre[0] - x) / width, (centre[1] - y) / height)
  return min(max(part[0], 0.0), 1.0), min(max(part[1], 0.0), 1.0)


def _load_objects(
  path: pathlib.Path,
  document: Document,
  images: Mapping[int, _Image],
  categories: Mapping[int, str],
  centroids_above: float | None,
) -> tuple[object_index.Objects, list[int]]:
  """Returns the objects of one file, and their category ids.

  Args:
    path: of the file.
    document: its content.
    images: by id.
    categories: of the file; others are an error.
    centroids_above: the smallest area of boxes whose mask counts, None = the
      centroid is the centre of the box.
  """
  rows, ids, boxes, flags, parts = [], [], [], [], []
  section = annotation_files.entries(
    path, document, 'annotations', _OBJECT_FIELDS
  )
  for i, entry in section:
    image = images.get(entry['image_id'])
    if image is None:
      annotation_files.fail(
        path,
        f'annotations[{i}]',
        f'has "image_id": {entry["image_id"]}, which no image has',
      )
    if entry['category_id'] not in categories:
      annotation_files.fail(
        path,
        f'annotations[{i}]',
        f'has "category_id": {entry["category_id"]}, which no category has',
      )
    x, y, width, height = entry['bbox']
    size = (width / image.width, height / image.height)
    part = (0.5, 0.5)
    if centroids_above is not None and size[0] * size[1] > centroids_above:
      part = _part_of_box(path, i, entry, image)
    rows.append(image.row)
    ids.append(entry['category_id'])
    boxes.append((x / image.width, y / image.height, *size))
    flags.append(int(bool(entry.get('iscrowd', 0))))
    parts.append(part)
  xywh = np.array(boxes, np.float64).reshape(-1, 4)
  return object_index.Objects(
    image=np.array(rows, np.int64),
    boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
    area=xywh[:, 2] * xywh[:, 3],
    labels=np.zeros(len(rows), np.int32),
    flags=np.array(flags, np.int32),
    centroids=np.array(parts, np.float64).reshape(-1, 2),
  ), ids


def _joined(
  parts: Sequence[object_index.Objects], labels: np.ndarray
) -> object_index.Objects:
  """Objects of all files, in order, without the dropped categories."""
  kept = labels > 0
  fields = {
    name: np.concatenate([getattr(part, name) for part in parts])[kept]
    for name in ('image', 'boxes', 'area', 'flags', 'centroids')
  }
  return object_index.Objects(labels=labels[kept], **fields)


def _build(config: ConfigDict, split: str) -> dict[str, np.ndarray]:
  """Reads the annotations of a split; one large file at a time."""
  files = {kind: path for kind, (path, _) in _files(config, split).items()}
  filters = object_index.Filters.of(config, split)
  graph = config.condition.task == 'scene_graph'
  categories: dict[int, str] = {}
  parts, category_ids = [], []
  for kind in ('instances', 'stuff'):
    if kind not in files:
      continue
    path = files[kind]
    document = annotation_files.load_json(path)
    if kind == 'instances':
      images, names = _load_images(path, document)
    own = {
      entry['id']: entry['name']
      for _, entry in annotation_files.entries(
        path, document, 'categories', _CATEGORY_FIELDS
      )
    }
    categories.update(own)
    objects, ids = _load_objects(
      path, document, images, own, filters.min_area if graph else None
    )
    parts.append(objects)
    category_ids += ids
  mids = _load_mids(files['categories']) if 'categories' in files else None
  numbers, label_names = number_labels(categories, mids)
  labels = np.array([numbers[i] for i in category_ids], np.int32)
  only = object_index.load_ids(files['ids']) if 'ids' in files else None
  captions = _captions(files['captions']) if 'captions' in files else None
  index = object_index.select(
    list(images),
    names,
    _joined(parts, labels),
    filters,
    label_names,
    only,
    captions,
  )
  return dict(vars(index))


def _captions(path: pathlib.Path) -> dict[int, str]:
  document = annotation_files.load_json(path)
  section = annotation_files.entries(
    path, document, 'annotations', _CAPTION_FIELDS
  )
  return object_index.first_captions(
    [(entry['image_id'], entry['caption']) for _, entry in section]
  )


class CocoReader(annotated_objects.AnnotatedObjectsReader):
  """Reads a split of COCO (see the module and `AnnotatedObjectsReader`)."""

  def __init__(self, config: ConfigDict, split: str):
    """Indexes the annotation files.

    Args:
      config: a whole config.
      split: train, val or test.

    Raises:
      ValueError: a field is out of its range, or an entry of a file is
        malformed (the message has the file and the position).
      FileNotFoundError: files are missing; the message has all of them.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    files = {kind: path for kind, (path, _) in _files(config, split).items()}
    options = {
      'split': split,
      'filters': dataclasses.asdict(object_index.Filters.of(config, split)),
      'masks': config.condition.task == 'scene_graph',
      'kinds': sorted(files),
    }
    arrays = index_cache.load_or_build(
      [path for kind, path in files.items() if kind != 'images'],
      options,
      lambda: _build(config, split),
    )
    index = object_index.Index(**arrays)
    super().__init__(config, split, index, files['images'])
