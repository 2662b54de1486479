"""Visual Genome: images with boxes and the relations between them.

The official files, unpacked in one folder, which is `config.data.root`:

  VG_100K/  VG_100K_2/         images; or all in VG_100K/
  image_data.json  objects.json  relationships.json
  object_alias.txt  relationship_alias.txt
  vg_splits.json               from google/sg2im: sg2im/data

Names, predicates and images are those that google/sg2im leaves, see
`sg2im_graphs`. The splits train, val and test are those of vg_splits.json;
Frido's evaluations read val.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import pathlib

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import files as files_lib
from pyramid_jax.data import category_lists
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.objects import annotated_objects
from pyramid_jax.data.objects import object_index
from pyramid_jax.data.objects import sg2im_graphs
from pyramid_jax.data.objects import visual_genome_files as vg_files
from pyramid_jax.data.storage import known_layouts
from pyramid_jax.files import stores


HASHED = 'hash'  # of `config.data.split_file`: splits of our own
RULES = sg2im_graphs.Rules()
_SPLITS = 'vg_splits.json'
_FILES = {
  'images': 'image_data.json',
  'objects': 'objects.json',
  'relationships': 'relationships.json',
  'object_alias': 'object_alias.txt',
  'relationship_alias': 'relationship_alias.txt',
}


def _base(config: ConfigDict) -> pathlib.Path:
  return stores.path(config.data.root).expanduser()


def _files(config: ConfigDict, split: str) -> dict[str, pathlib.Path]:
  """Returns the files of a split by kind, those of all splits first."""
  d, base = config.data, _base(config)
  found = {kind: base / name for kind, name in _FILES.items()}
  if d.split_file != HASHED:
    found['splits'] = base / _SPLITS
    if d.split_file:
      found['splits'] = files_lib.local(d.split_file, 'config.data.split_file')
  return found | annotated_objects.lists(config, split)


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  what = {
    **dict.fromkeys(_FILES, 'Visual Genome, config.data.root'),
    'splits': 'the splits, google/sg2im: sg2im/data/vg_splits.json;'
    f' config.data.split_file = {HASHED} makes others',
    **annotated_objects.LISTS,
  }
  return known_layouts.missing(
    config.data.root,
    'visual_genome',
    [(x, what[k]) for s in splits for k, x in _files(config, s).items()],
  )


def published_labels(config: ConfigDict) -> tuple[str, ...]:
  """Returns the label names that the official files and splits have."""
  rows = category_lists.read(category_lists.path_of('visual_genome'))
  return _labels(config, list(rows.values()))[1]


def _labels(
  config: ConfigDict, names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Returns the labels of categories by number, and the names by label."""
  labels, by_label = category_lists.numbered(config, dict(enumerate(names)))
  return np.array([labels[i] for i in range(len(names))], np.int32), by_label


def _build(files: Mapping[str, pathlib.Path]) -> dict[str, np.ndarray]:
  """Reads the files of all splits, and logs what the filters drop."""
  splits = vg_files.load_splits(files['splits']) if 'splits' in files else None
  images = vg_files.load_images(files['images'], splits, RULES.min_side_px)
  raw, faults = vg_files.load_graphs(files, images)
  graphs = sg2im_graphs.select(raw, images.splits == 0, RULES)
  for reason, count in {**images.dropped, **graphs.dropped}.items():
    logging.info('Visual Genome: %d images are left out: %s', count, reason)
  logging.info(
    'Visual Genome: %d images of train, %d of val, %d of test; %d names of'
    ' objects, %d predicates',
    *np.bincount(images.splits[graphs.images], minlength=3)[:3],
    len(graphs.names) - 1,
    len(graphs.predicate_names) - 1,
  )
  place = np.cumsum(graphs.images) - 1
  lines = [*images.faults, *faults]
  return {
    'ids': images.ids[graphs.images],
    'splits': images.splits[graphs.images],
    'files': images.files[graphs.images],
    'sizes': images.sizes[graphs.images],
    'image': place[raw.image[graphs.rows]],
    'xywh': raw.xywh[graphs.rows],
    'categories': graphs.categories,
    'relations': graphs.relations,
    'names': _encoded(graphs.names),
    'predicates': _encoded(graphs.predicate_names),
    'faults': _encoded(lines),
  }


def _encoded(texts: Sequence[str]) -> np.ndarray:
  return np.array([text.encode() for text in texts], np.bytes_)


def _located(base: pathlib.Path, files: np.ndarray) -> np.ndarray:
  """Returns the files (N,) of images where their folders are."""

  @functools.cache
  def place(folder: str) -> str:
    candidates = (folder, f'images/{folder}', f'images2/{folder}', 'VG_100K')
    return next((x for x in candidates if (base / x).is_dir()), folder)

  names = [name.decode().split('/') for name in files.tolist()]
  return _encoded([f'{place(folder)}/{name}' for folder, name in names])


def _index(
  config: ConfigDict, split: str, arrays: Mapping[str, np.ndarray]
) -> object_index.Index:
  """Returns the images of a split that pass the filters of the config."""
  files, base = _files(config, split), _base(config)
  names = [name.decode() for name in arrays['names']]
  labels, label_names = _labels(config, names)
  sizes = np.tile(arrays['sizes'][arrays['image']], 2)
  xywh = arrays['xywh'] / sizes
  wanted = arrays['splits'] == vg_files.SPLITS.index(split)
  only = set(arrays['ids'][wanted].tolist())
  if 'ids' in files:
    only &= object_index.load_ids(files['ids'])
  label = labels[arrays['categories']]
  relations = arrays['relations']
  index = object_index.select(
    object_index.Images(
      ids=arrays['ids'],
      keys=_encoded([str(i) for i in arrays['ids'].tolist()]),
      files=_located(base, arrays['files']),
      sizes=arrays['sizes'],
    ),
    object_index.Objects(
      image=arrays['image'],
      boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
      # Objects of categories that are left out have none.
      area=np.where(label > 0, xywh[:, 2] * xywh[:, 3], -1),
      labels=label,
      flags=np.zeros(len(label), np.int32),
      centroids=np.zeros((0, 2)),
    ),
    object_index.Filters.of(config, split),
    label_names,
    only,
    relations=object_index.Relations(
      subjects=relations[:, 0],
      predicates=relations[:, 1].astype(np.int32),
      objects=relations[:, 2],
      names=arrays['predicates'],
    ),
  )
  return object_index.Index(**{**vars(index), 'faults': arrays['faults']})


class VisualGenomeReader(annotated_objects.AnnotatedObjectsReader):
  """Reads a split of Visual Genome; see the module."""

  def __init__(self, config: ConfigDict, split: str):
    """Indexes the files of all splits, which takes minutes, once.

    Raises:
      ValueError: a field is out of its range, or a file is malformed.
      FileNotFoundError: files are missing; the message has all of them.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    files = _files(config, split)
    common = {k: x for k, x in files.items() if k not in ('ids', 'categories')}
    arrays = index_cache.of_files(
      list(common.values()),
      {'data': 'visual_genome', 'rules': str(RULES)},
      lambda: _build(common),
      index_cache.folder(config),
    )
    super().__init__(
      config,
      split,
      _index(config, split, arrays),
      _base(config),
      described={
        path.name: path for kind, path in files.items() if kind != 'categories'
      },
    )
