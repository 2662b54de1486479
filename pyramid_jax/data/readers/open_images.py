"""Open Images: images with boxes of 601 categories.

The official files, unpacked in one folder, which is `config.data.root`:

  train/  validation/                       images, ID.jpg
  oidv6-train-annotations-bbox.csv          or train-annotations-bbox.csv
  validation-annotations-bbox.csv
  class-descriptions-boxable.csv            the names of categories

Images may also lie as their archives unpack, in train_0/ to train_f/ by the
first digit of their names; and all in the folders of FiftyOne: train/data/,
train/labels/detections.csv and train/metadata/classes.csv. The val and test
splits both read the validation images, as the published evaluations do.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import pathlib

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data import category_lists
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.objects import annotated_objects
from pyramid_jax.data.objects import box_rows
from pyramid_jax.data.objects import object_index
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.data.storage import known_layouts
from pyramid_jax.files import stores


# Categories that the layout models count as another one (taming-transformers:
# open_images_helper.py).
MERGED = {
  '/m/03bt1vf': '/m/01g317',  # woman: person
  '/m/04yx4': '/m/01g317',  # man
  '/m/05r655': '/m/01g317',  # girl
  '/m/01bl7v': '/m/01g317',  # boy
  '/m/0cnyhnx': '/m/01xq0k1',  # bull: cattle
  '/m/01226z': '/m/018xm',  # football: ball
  '/m/05ctyq': '/m/018xm',  # tennis ball
  '/m/058qzx': '/m/04ctx',  # kitchen knife: knife
  '/m/06pcq': '/m/0l515',  # submarine sandwich: sandwich
  '/m/03m3pdh': '/m/02crq1',  # sofa bed: couch
  '/m/046dlr': '/m/01x3z',  # alarm clock: clock
  '/m/0h8mzrc': '/m/01x3z',  # wall clock
}
_DIGITS = '0123456789abcdef'
_FILE = 'Open Images, config.data.root'


def _part(split: str) -> str:
  return 'train' if split == 'train' else 'validation'


def _first(candidates: Iterable[pathlib.Path]) -> pathlib.Path:
  """Returns the first file that is there, or the last one."""
  for path in candidates:
    if path.is_file():
      return path
  return path


def _box_file(base: pathlib.Path, part: str) -> pathlib.Path:
  names = (
    f'oidv6-{part}-annotations-bbox.csv',
    f'{part}-annotations-bbox.csv',
  )
  return _first(
    (
      *(
        base / folder / name for folder in ('', 'annotations') for name in names
      ),
      base / part / 'labels' / 'detections.csv',
      base / names[part != 'train'],  # the name of the official page
    )
  )


def _class_file(base: pathlib.Path, part: str) -> pathlib.Path:
  name = 'class-descriptions-boxable.csv'
  return _first(
    (
      base / 'annotations' / name,
      base / f'oidv7-{name}',
      base / part / 'metadata' / 'classes.csv',
      base / name,
    )
  )


def _image_folder(base: pathlib.Path, part: str) -> tuple[pathlib.Path, bool]:
  """Returns the folder of images, and whether they lie below it by digits."""
  if (base / part / 'data').is_dir():
    return base / part / 'data', False
  if not (base / part).is_dir() and any(
    (base / f'{part}_{digit}').is_dir() for digit in _DIGITS
  ):
    return base, True
  return base / part, False


def _files(config: ConfigDict, split: str) -> dict[str, pathlib.Path]:
  """Returns the files of a split by kind."""
  part = _part(split)
  base = stores.path(config.data.root).expanduser()
  return {
    'boxes': _box_file(base, part),
    'classes': _class_file(base, part),
    **annotated_objects.lists(config, split),
  }


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  root, splits = config.data.root, tuple(splits)
  base = stores.path(root).expanduser()
  folders = [_image_folder(base, _part(split))[0] for split in splits]
  what = {
    'boxes': f'boxes of {_FILE}',
    'classes': f'categories of {_FILE}',
    **annotated_objects.LISTS,
  }
  return known_layouts.missing(
    root,
    'openimages',
    [(x, what[k]) for s in splits for k, x in _files(config, s).items()],
    [(folder, f'images of {_FILE}') for folder in folders],
  )


def published_labels(config: ConfigDict) -> tuple[str, ...]:
  """Returns the label names that the official files have."""
  categories = category_lists.read(category_lists.path_of('openimages'))
  return category_lists.numbered(config, categories)[1]


def wanted(
  config: ConfigDict, categories: Mapping[str, str]
) -> tuple[dict[str, int], tuple[str, ...]]:
  """Returns labels by category id, 0 = left out, and the names by label.

  All categories of the data have their number, also with the subset `layout`,
  of which models see 340: those of `lists/openimages_layout.csv`, with the
  boxes of twelve counted as those of others (`MERGED`).
  """
  labels, names = category_lists.numbered(config, categories)
  if config.data.category_subset == 'all':
    return labels, names
  layout = category_lists.read(category_lists.FOLDER / 'openimages_layout.csv')
  merged = {key: MERGED.get(key, key) for key in labels}
  return {
    key: labels.get(as_key, 0) if as_key in layout else 0
    for key, as_key in merged.items()
  }, names


def _build(config: ConfigDict, split: str) -> dict[str, np.ndarray]:
  """Reads the boxes of a split."""
  files = _files(config, split)
  filters = object_index.Filters.of(config, split)
  categories = category_lists.read(files['classes'])
  categories = {k: v for k, v in categories.items() if k.startswith('/')}
  if not categories:
    annotation_files.fail(files['classes'], 'the file', 'has no row /m/ID,Name')
  labels, names = wanted(config, categories)
  found = box_rows.read(files['boxes'], labels, filters.min_area)
  ids, image = np.unique(found.ids, return_inverse=True)
  keys = box_rows.image_names(ids)
  index = object_index.select(
    object_index.Images(
      ids=ids.view(np.int64),
      keys=keys,
      files=np.char.add(keys, b'.jpg'),
      sizes=np.zeros((len(ids), 2)),
    ),
    object_index.Objects(
      image=image,
      boxes=found.boxes,
      area=found.area,
      labels=found.labels,
      flags=found.flags,
      centroids=np.zeros((0, 2)),
    ),
    filters,
    names,
    object_index.load_ids(files['ids'], 16) if 'ids' in files else None,
  )
  lines = np.array([line.encode() for line in found.faults], np.bytes_)
  return {**vars(index), 'faults': lines}


class OpenImagesReader(annotated_objects.AnnotatedObjectsReader):
  """Reads a split of Open Images; see the module."""

  tasks = ('none', 'layout', 'label', 'superres', 'inpaint')

  def __init__(self, config: ConfigDict, split: str):
    """Indexes the boxes; those of training take a minute, once.

    Raises:
      ValueError: a field is out of its range, or a file is malformed.
      FileNotFoundError: files are missing; the message has all of them.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    files, part = _files(config, split), _part(split)
    d = config.data
    options = {
      'data': 'openimages',
      'split': split,
      'filters': dataclasses.asdict(object_index.Filters.of(config, split)),
      'kinds': sorted(files),
      'subset': d.category_subset,
      'unlisted': d.unlisted_categories,
    }
    arrays = index_cache.of_files(
      list(files.values()),
      options,
      lambda: _build(config, split),
      index_cache.folder(config),
    )
    base = stores.path(d.root).expanduser()
    folder, by_digit = _image_folder(base, part)
    if by_digit:
      digits = arrays['files'].astype('S1')
      prefix = np.char.add(np.char.add(f'{part}_'.encode(), digits), b'/')
      arrays = {**arrays, 'files': np.char.add(prefix, arrays['files'])}
    super().__init__(
      config,
      split,
      object_index.Index(**arrays),
      folder,
      token_flags=box_rows.GROUP,
      described={
        path.name: path for kind, path in files.items() if kind != 'categories'
      },
    )
