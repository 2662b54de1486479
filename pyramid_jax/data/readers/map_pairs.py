"""Images with semantic maps in a folder of their own: ADE20K, landscapes.

`config.data.root` is a folder, or a .tar or .zip, with the images and the maps
of a split in two folders, the first of these that are there (each may lie below
ADEChallengeData2016/):

  images/training/, annotations/training/         ADE20K; 0 = unlabelled, 1-150
  images/validation/, annotations/validation/     the same of val and test
  images/, annotations/                           without splits
  sflckr_images/, sflckr_segmentations/           landscapes, as
                                                  taming-transformers has them

The map of images/training/a/b.jpg is annotations/training/a/b.png, the classes
of its pixels as 8-bit grey values or a palette. Without splits each one reads
everything, unless `config.data.ids_file` and `config.data.eval_ids_file` list
the images of training and those of val and test, by paths below their folder.
`config.condition.map_classes` is 151 for ADE20K, 182 for landscapes.
"""

from collections.abc import Iterable
import os

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import file_reader
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data import stored_images
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import class_maps
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import image_lists
from pyramid_jax.data.storage import image_stores
from pyramid_jax.files import stores


TASKS = ('none', 'map', 'superres', 'inpaint')
MAP = '.png'
_SPLITS = {
  'train': ('training/', 'train/'),
  'val': ('validation/', 'val/'),
  'test': ('validation/', 'val/'),  # The official tests have no maps.
}
_FOLDERS = (
  ('images/', 'annotations/'),
  ('sflckr_images/', 'sflckr_segmentations/'),
)
_BASES = ('', 'ADEChallengeData2016/')


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  if not config.data.root:
    return ['the folder of images and maps (config.data.root is empty)']
  root = stores.path(config.data.root).expanduser()
  lines = []
  if not root.exists():
    lines = [f'{root} (images and semantic maps, config.data.root)']
  for split in splits:
    lines += image_lists.missing_inputs(config, split)
  return list(dict.fromkeys(lines))


def folders(store: image_stores.Store, split: str) -> tuple[str, str] | None:
  """Returns the folders of images and maps of a split, None without any."""
  for base in _BASES:
    for one, other in _FOLDERS:
      for part in (*_SPLITS[split], ''):
        pair = f'{base}{one}{part}', f'{base}{other}{part}'
        if all(image_stores.below(store, folder) for folder in pair):
          return pair
  return None


class MapPairsReader(stored_images.StoredReader):
  """Reads images and their maps (see the module and `StoredReader`).

  Examples have `mask` in addition if the task or `config.data.maps` asks for
  it; images without a map are left out then.
  """

  def __init__(self, config: ConfigDict, split: str):
    """Lists the images and the maps.

    Raises:
      ValueError: there are none, or the list of the split is of other files.
      FileNotFoundError: the folder, the archive or a list is missing.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    root = stores.path(config.data.root).expanduser()
    store = image_stores.opened(root, index_cache.folder(config))
    pair = folders(store, split)
    if pair is None:
      raise errors.UserError(
        f'{root} (config.data.root) has no folders of images and semantic maps'
        f' such as images/{_SPLITS[split][0]} and'
        f' annotations/{_SPLITS[split][0]}.',
        errors.MISSING,
      )
    rows = [
      row
      for row in range(*image_stores.below(store, pair[0]) or (0, 0))
      if store.names[row].lower().endswith(images.SUFFIXES)
    ]
    names = {row: store.names[row].removeprefix(pair[0]) for row in rows}
    needs_map = 'mask' in reader_lib.wanted_maps(config)
    maps = {
      row: image_stores.find(
        store, f'{pair[1]}{os.path.splitext(names[row])[0]}{MAP}'
      )
      for row in (rows if needs_map else ())
    }
    having = [row for row in rows if maps.get(row) is not None or not needs_map]
    if not having:
      raise errors.UserError(
        f'{root} has no semantic map of any of the {len(rows)} images in'
        f' {pair[0]}; the map of a.jpg is {pair[1]}a{MAP}.',
        errors.DATA,
      )
    chosen = stored_images.listed(config, split, store, having, names)
    super().__init__(config, split, chosen, TASKS)
    self._map_rows = [maps.get(row) for row in chosen.rows]
    self._classes = config.condition.map_classes
    if len(having) < len(rows):
      self.report['without_map'] = len(rows) - len(having)

  def example(self, index: int, draw: np.uint64) -> file_reader.Example:
    """Returns one example, or raises `BrokenImage`; see `FileReader.cut`."""
    image = np.asarray(self.decoded(index))
    example, crop, flipped = self.cut(image, index, draw)
    example['class'] = np.asarray(0, np.int32)
    row = self._map_rows[index]
    if row is not None:
      where = self._store.where(row)
      data = self._store.load(row)
      classes = class_maps.decode(data, where, image.shape, self._classes)
      example['mask'] = class_maps.cut(classes, self.transform, crop, flipped)
    return example
