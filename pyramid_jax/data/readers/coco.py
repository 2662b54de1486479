"""COCO: images with captions, boxes of things and boxes of stuff.

The official files, unpacked in one folder per edition, which is
`config.data.root`, or `<year>` or `coco/<year>` inside of it:

  train2017/  val2017/
  annotations/{instances,captions,stuff}_{train,val}2017.json
  annotations/deprecated-challenge2017/{train,val}-ids.txt
  annotations/scenegraph_{train,val}2017.json   Frido's scene graphs as texts
  stuffthingmaps/{train,val}2017/               semantic maps of COCO-Stuff

and the same of 2014, which has no stuff and neither of the last two. The pixels
of a map are category ids less one, 255 = unlabelled; 0 is unlabelled here, and
the others are category ids, up to 182. The val and test splits both read
the validation images, as the published evaluations do.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from pyramid_jax import files as files_lib
from pyramid_jax import limits
from pyramid_jax.data import category_lists
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.objects import annotated_objects
from pyramid_jax.data.objects import mask_centroids
from pyramid_jax.data.objects import object_index
from pyramid_jax.data.pixels import class_maps
from pyramid_jax.data.pixels import images as images_lib
from pyramid_jax.data.pixels import transforms
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.data.storage import known_layouts
from pyramid_jax.files import stores


YEARS = (2014, 2017)
MAP_CLASSES = 183  # of COCO-Stuff, unlabelled included
# Where the maps of a split lie; the official archive has no folder of its own.
_MAP_FOLDERS = (
  'stuffthingmaps',
  'cocostuffthings',
  'stuffthingmaps_trainval2017',
)
_FOLDERS = ('images', 'maps')  # kinds that are no files
LAST_THING = 90  # category id; those of stuff are larger
Document = Mapping[str, Any]
# Category id -> label, 0 = dropped.
Labels = dict[int, int]
# Image id -> file, width and height in px.
Images = dict[int, tuple[str, float, float]]

_IMAGE_FIELDS = {
  'id': annotation_files.INTEGER,
  'file_name': annotation_files.TEXT,
  'width': annotation_files.POSITIVE,
  'height': annotation_files.POSITIVE,
}
_OBJECT_FIELDS = {
  'image_id': annotation_files.INTEGER,
  'category_id': annotation_files.INTEGER,
  'bbox': annotation_files.BBOX,
}
_CAPTION_FIELDS = {
  'image_id': annotation_files.INTEGER,
  'caption': annotation_files.TEXT,
}
_CATEGORY_FIELDS = {
  'id': annotation_files.INTEGER,
  'name': annotation_files.TEXT,
}


def folder(config: ConfigDict) -> pathlib.Path:
  """Returns the folder that holds `annotations` of the configured edition.

  Raises:
    ValueError: an edition that does not exist, or stuff of 2014.
  """
  d = config.data
  if d.year not in YEARS:
    raise ValueError(f'config.data.year is {d.year}, must be 2014 or 2017.')
  if d.year == 2014 and 'mask' in reader_lib.wanted_maps(config):
    raise ValueError(
      'config.data.year is 2014, must be 2017 for semantic maps: those of'
      ' COCO-Stuff are of the edition of 2017.'
    )
  if d.use_stuff and d.year == 2014:
    raise ValueError(
      'config.data.use_stuff is True, must be False for config.data.year = '
      '2014: stuff is annotated in the edition of 2017.'
    )
  root = stores.path(d.root).expanduser()
  for candidate in (root, root / str(d.year), root / 'coco' / str(d.year)):
    if (candidate / 'annotations').is_dir():
      return candidate
  return root


def _listed(path: str, base: pathlib.Path, field: str) -> pathlib.Path:
  """A file named in the config: as it is, or within the data."""
  if path in category_lists.LISTS and field == 'category_file':
    return category_lists.path_of(path)
  given = files_lib.local(path, f'config.data.{field}')
  inside = () if given.is_absolute() else (base, base / 'annotations')
  for candidate in (given, *(folder / given for folder in inside)):
    if candidate.is_file():
      return candidate
  return given


def _files(
  config: ConfigDict, split: str
) -> dict[str, tuple[pathlib.Path, str]]:
  """Returns {kind: (path, what it is for the user)} of a split."""
  d, base = config.data, folder(config)
  part = f'{"train" if split == "train" else "val"}{d.year}'
  kinds = ['instances']
  if d.use_stuff:
    kinds.append('stuff')
  if config.condition.task == 'text':
    kinds.append('captions')
  files = {'images': (base / part, 'image folder, config.data.root')}
  if 'mask' in reader_lib.wanted_maps(config):
    places = [base / name / part for name in _MAP_FOLDERS]
    place = next((x for x in places if x.is_dir()), places[0])
    files['maps'] = (place, 'maps of stuffthingmaps_trainval2017.zip')
  graphs = base / 'annotations' / f'scenegraph_{part}.json'
  if config.condition.task == 'scene_graph' and (
    d.graphs == 'file' or (d.graphs == 'auto' and graphs.is_file())
  ):
    files['graphs'] = (graphs, 'scene graphs, config.data.graphs')
  for kind in kinds:
    path = base / 'annotations' / f'{kind}_{part}.json'
    files[kind] = (path, f'COCO {kind}, config.data.root')
  ids = 'ids_file' if split == 'train' else 'eval_ids_file'
  for kind, field, what in (
    ('categories', 'category_file', 'ID,Name rows'),
    ('ids', ids, 'image ids'),
  ):
    if d[field]:
      files[kind] = (
        _listed(d[field], base, field),
        f'{what}, config.data.{field}',
      )
  return files


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there.

  Raises:
    ValueError: see `folder`.
  """
  parts = [
    (kind in _FOLDERS, part)
    for split in splits
    for kind, part in _files(config, split).items()
  ]
  return known_layouts.missing(
    config.data.root,
    'coco',
    [part for is_folder, part in parts if not is_folder],
    [part for is_folder, part in parts if is_folder],
  )


def number_labels(
  config: ConfigDict, categories: Mapping[int, str]
) -> tuple[Labels, tuple[str, ...]]:
  """Numbers the categories of COCO, by `config.data`; 'other' is dropped.

  Returns:
    {id: label}, and the names by label, the first of which is padding.
  """
  kept = {i: name for i, name in categories.items() if name != 'other'}
  labels, names = category_lists.numbered(config, kept)
  return {**dict.fromkeys(categories, 0), **labels}, names


def published_labels(config: ConfigDict) -> tuple[str, ...]:
  """Returns the label names that the official files have."""
  rows = category_lists.read(category_lists.path_of('coco')).items()
  categories = {int(i): name for i, name in rows}
  if not config.data.use_stuff:
    categories = {i: n for i, n in categories.items() if i <= LAST_THING}
  return number_labels(config, categories)[1]


def _load_images(
  path: pathlib.Path, document: Document
) -> tuple[Images, list[str]]:
  """Returns file, width and height in px of the images by id, in order.

  The second result says which are left out, see `annotation_files.Section`.
  """
  images: Images = {}
  section = annotation_files.Section(path, document, 'images', _IMAGE_FIELDS)
  for i, entry in section:
    name, key = pathlib.PurePosixPath(entry['file_name']), entry['id']
    if name.is_absolute() or '..' in name.parts:
      section.leave_out(
        i,
        f'has "file_name": {str(name)!r:.60}, must be inside of the image'
        ' folder',
      )
    elif key in images:
      section.leave_out(i, f'has the "id" {key} of another image')
    else:
      images[key] = (entry['file_name'], entry['width'], entry['height'])
  return images, section.check()


def _part_of_box(entry: Document) -> tuple[float, float]:
  """Returns where the centroid of an object's mask lies in its box.

  A mask that cannot be read is a ValueError.
  """
  x, y, width, height = entry['bbox']
  mask = entry.get('segmentation')
  centre = mask_centroids.centroid(mask) if mask else None
  if centre is None or not width or not height:
    return 0.5, 0.5
  part = ((centre[0] - x) / width, (centre[1] - y) / height)
  return min(max(part[0], 0.0), 1.0), min(max(part[1], 0.0), 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Objects:
  """The objects of one file."""

  columns: dict[str, list]  # by field
  categories: dict[int, str]  # id -> name
  faults: list[str]  # what is left out


def _load_objects(
  path: pathlib.Path,
  document: Document,
  images: Images,
  centroids_above: float | None,
) -> _Objects:
  """Reads the objects of one file.

  `centroids_above` is the smallest area of boxes whose mask counts, None = the
  centroid is the centre of the box.
  """
  section = annotation_files.Section(
    path, document, 'categories', _CATEGORY_FIELDS
  )
  categories = {entry['id']: entry['name'] for entry in section.whole()}
  out: dict[str, list] = {
    name: [] for name in ('row', 'category', 'xywh', 'flag', 'centroid')
  }
  row = {image_id: row for row, image_id in enumerate(images)}
  section = annotation_files.Section(
    path, document, 'annotations', _OBJECT_FIELDS
  )
  for i, entry in section:
    image, category = entry['image_id'], entry['category_id']
    if image not in images or category not in categories:
      key = 'category_id' if image in images else 'image_id'
      what = key.removesuffix('_id')
      section.leave_out(i, f'has "{key}": {entry[key]}, which no {what} has')
      continue
    _, columns, rows = images[image]
    x, y, width, height = entry['bbox']
    size = (width / columns, height / rows)
    part = (0.5, 0.5)
    if centroids_above is not None and size[0] * size[1] > centroids_above:
      try:
        part = _part_of_box(entry)
      except ValueError as error:
        section.leave_out(i, f'has {error}')
        continue
    out['row'].append(row[image])
    out['category'].append(category)
    out['xywh'].append((x / columns, y / rows, *size))
    out['flag'].append(int(bool(entry.get('iscrowd', 0))))
    out['centroid'].append(part)
  return _Objects(columns=out, categories=categories, faults=section.check())


def _needs_masks(config: ConfigDict, files: Iterable[str]) -> bool:
  """Whether the centroids of masks decide relations; `files` by kind."""
  return config.condition.task == 'scene_graph' and 'graphs' not in files


def _build(config: ConfigDict, split: str) -> dict[str, np.ndarray]:
  """Reads the annotations of a split; one large file at a time."""
  files = {kind: path for kind, (path, _) in _files(config, split).items()}
  filters = object_index.Filters.of(config, split)
  masks = _needs_masks(config, files)
  categories: dict[int, str] = {}
  columns: dict[str, list] = {}
  faults: list[str] = []
  for kind in ('instances', 'stuff'):
    if kind not in files:
      continue
    document = annotation_files.load_json(files[kind])
    if kind == 'instances':
      images, faults = _load_images(files[kind], document)
    found = _load_objects(
      files[kind], document, images, filters.min_area if masks else None
    )
    categories |= found.categories
    columns = {k: columns.get(k, []) + x for k, x in found.columns.items()}
    faults = faults + found.faults
  captions = None
  for kind in ('captions', 'graphs'):
    if kind in files:
      captions, more = _captions(files[kind])
      faults = faults + more
  numbers, label_names = number_labels(config, categories)
  labels = np.array([numbers[i] for i in columns['category']], np.int32)
  kept = labels > 0
  xywh = np.array(columns['xywh'], np.float64).reshape(-1, 4)[kept]
  index = object_index.select(
    object_index.Images.of(images),
    object_index.Objects(
      image=np.array(columns['row'], np.int64)[kept],
      boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
      area=xywh[:, 2] * xywh[:, 3],
      labels=labels[kept],
      flags=np.array(columns['flag'], np.int32)[kept],
      centroids=np.array(columns['centroid'], np.float64).reshape(-1, 2)[kept],
    ),
    filters,
    label_names,
    object_index.load_ids(files['ids']) if 'ids' in files else None,
    captions,
  )
  lines = np.array([line.encode() for line in faults], np.bytes_)
  return {**vars(index), 'faults': lines}


def _captions(path: pathlib.Path) -> tuple[dict[int, str], list[str]]:
  """Returns the captions by image, and which are left out."""
  document = annotation_files.load_json(path)
  section = annotation_files.Section(
    path, document, 'annotations', _CAPTION_FIELDS
  )
  found = []
  for i, entry in section:
    if len(entry['caption']) > limits.TEXT_CHARACTERS:
      section.leave_out(
        i, f'has a "caption" of {len(entry["caption"])} characters'
      )
    else:
      found.append((entry['image_id'], entry['caption']))
  return object_index.first_captions(found), section.check()


class CocoReader(annotated_objects.AnnotatedObjectsReader):
  """Reads a split of COCO (see the module and `AnnotatedObjectsReader`)."""

  tasks = ('none', 'text', 'layout', 'label', 'scene_graph', 'map')
  has_maps = True

  def __init__(self, config: ConfigDict, split: str):
    """Indexes the annotation files.

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
      'masks': _needs_masks(config, files),
      'kinds': sorted(files),
      'unlisted': config.data.unlisted_categories,
    }
    arrays = index_cache.of_files(
      [path for kind, path in files.items() if kind not in _FOLDERS],
      options,
      lambda: _build(config, split),
      index_cache.folder(config),
    )
    index = object_index.Index(**arrays)
    described = {
      path.name: path
      for kind, path in files.items()
      if kind not in (*_FOLDERS, 'categories')
    }
    if config.condition.task == 'scene_graph':
      logging.info('Scene graphs are from %s', files.get('graphs', 'the rule'))
    folder = files['images']
    super().__init__(config, split, index, folder, described=described)
    self._map_folder = files.get('maps')
    if self._map_folder is not None:
      self.id_counts = {**self.id_counts, 'mask': MAP_CLASSES}

  def map_of(
    self,
    index: int,
    image: Image.Image | transforms.Cut,
    crop: np.ndarray,
    flipped: bool,
  ) -> np.ndarray:
    """Returns category ids (size, size) uint8, 0 = unlabelled; see the base."""
    assert self._map_folder is not None
    assert isinstance(image, Image.Image)
    name = pathlib.PurePosixPath(self._index.files[index].decode())
    path = self._map_folder / name.with_suffix('.png')
    classes = class_maps.decode(
      images_lib.load_bytes(path),
      str(path),
      (image.height, image.width),
      self._config.condition.map_classes,
      shift=1,
    )
    return class_maps.cut(classes, self.transform, crop, flipped)
