"""Places365: scenes of 365 categories, from the official files.

`config.data.root` is a folder with what data.csail.mit.edu/places/places365
gives; archives are read in place, the first of these that is there:

  train  train_large_places365standard.tar, train_256_places365standard.tar, the
         same of `challenge`; unpacked data_large_standard/ and so on, or
         data_large/ and data_256/; the `easyformat`, train/
  val    val_large.tar, val_256.tar; val_large/, val_256/; val/

`data.root` may also be one of the archives or folders of train itself, or
places365standard_easyformat.tar. The split `test` reads the images of `val`,
as the published evaluations do: those of test have no categories.

The lists of the development kit (filelist_places365-standard.tar) lie beside
them. Of the archives of training only the images of
`places365_train_standard.txt` or `places365_train_challenge.txt` are read if
that is there. For the task `class` a category has the label 1 + its number in
`categories_places365.txt`, and without that file its place among the names of
the folders; images of val without folders need that file and
`places365_val.txt`. The category in the folders `/a/apartment_building/outdoor`
is `apartment_building-outdoor`, as in the easyformat.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import re

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import category_lists
from pyramid_jax.data import stored_images
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.data.storage import archives
from pyramid_jax.data.storage import image_lists
from pyramid_jax.data.storage import image_stores
from pyramid_jax.files import stores


TASKS = ('none', 'class', 'superres', 'inpaint')
CATEGORIES = 'categories_places365.txt'
VAL_LIST = 'places365_val.txt'
EASY = 'places365standard_easyformat.tar'
_EASY_FOLDER = 'places365_standard'
_EASY = (EASY, 'train')
_KINDS = ('standard', 'challenge')
_SIZES = ('large', '256')
_PLACES = {
  'train': (
    *(
      f'train_{size}_places365{kind}.tar' for kind in _KINDS for size in _SIZES
    ),
    *(f'data_{size}_{kind}' for kind in _KINDS for size in _SIZES),
    *('data_large', 'data_256', 'train', f'{_EASY_FOLDER}/train', EASY),
  ),
  'val': (
    *('val_large.tar', 'val_256.tar', 'val_large', 'val_256'),
    *('val', f'{_EASY_FOLDER}/val', EASY),
  ),
}
# What archives and folders have before the folders of categories.
_BEFORE = re.compile(
  r'\A(?:places365_standard/(?:train|val)|(?:data|val)_(?:large|256))/'
)
_LETTER = re.compile(r'\A[a-z]/')


def _split(split: str) -> str:
  return 'val' if split == 'test' else split


def _base(config: ConfigDict) -> stores.Path:
  """Returns the folder of the files."""
  root = stores.path(config.data.root).expanduser()
  is_part = archives.is_archive(root) or root.name in _PLACES['train']
  return root.parent if is_part else root


def source(config: ConfigDict, split: str) -> stores.Path | None:
  """Returns the archive or the folder of a split, None without any."""
  root, base = stores.path(config.data.root).expanduser(), _base(config)
  names = _PLACES[_split(split)]
  if root != base and (root.name in names or _split(split) == 'train'):
    return root if root.exists() else None
  return next((base / x for x in names if (base / x).exists()), None)


def _list(config: ConfigDict, split: str) -> stores.Path | None:
  """Returns the official list of a split, None where there is none."""
  base, found = _base(config), source(config, split)
  if _split(split) == 'val':
    names: Sequence[str] = (VAL_LIST,) if found and _is_flat(found) else ()
  elif found and found.name in _EASY:
    names = ()  # Its folders have all of its images.
  else:
    named = [kind for kind in _KINDS if found and kind in found.name]
    names = [f'places365_train_{kind}.txt' for kind in named or _KINDS]
  return next((base / x for x in names if (base / x).is_file()), None)


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  if not config.data.root:
    return ['the folder of Places365 (config.data.root is empty)']
  base = _base(config)
  lines: dict[str, None] = {}
  for split in dict.fromkeys(map(_split, splits)):
    found = source(config, split)
    if found is None:
      what = f'{_PLACES[split][0]} or {split}'
      lines[f'{base / what} (images of Places365, config.data.root)'] = None
    elif config.condition.task == 'class' and _is_flat(found):
      for name in (VAL_LIST, CATEGORIES):
        if not (base / name).is_file():
          what = 'categories of val, config.data.root'
          lines[f'{base / name} ({what})'] = None
    lines |= dict.fromkeys(image_lists.missing_inputs(config, split))
  return list(lines)


def _is_flat(found: stores.Path) -> bool:
  """Whether the images of val are not in folders of their categories."""
  return found.name.removesuffix(archives.TAR) in ('val_large', 'val_256')


def _key(name: str) -> str:
  """Returns what a list calls a file: 'a/airfield/00000001.jpg'."""
  return _BEFORE.sub('', name.removeprefix('./').lstrip('/'), count=1)


def category(name: str) -> str:
  """Returns the category of a file by its folders, '' without any.

  That of '/a/apartment_building/outdoor/00000001.jpg' and of
  'apartment_building-outdoor/00000001.jpg' is 'apartment_building-outdoor'.
  """
  folders = _key(name).rpartition('/')[0]
  return _LETTER.sub('', f'{folders}/', count=1)[:-1].replace('/', '-')


def _numbers(path: stores.Path) -> dict[str, int]:
  """Reads lines 'NAME NUMBER' of a list; another one is a UserError."""
  found = {}
  for number, line in annotation_files.load_lines(path):
    name, _, text = line.strip().rpartition(' ')
    if not name or not text.isdecimal() or len(text) > 4:
      annotation_files.fail(
        path, f'line {number}', f'must be NAME NUMBER, got {line!r:.60}'
      )
    found[_key(name)] = int(text)
  return found


def _categories(base: stores.Path) -> list[str]:
  """Returns the names of the categories by number, [] without their file.

  Raises:
    UserError: numbers are not 0, 1, ...
  """
  path = base / CATEGORIES
  if not path.is_file():
    return []
  numbers = _numbers(path)
  ordered = sorted(numbers, key=lambda name: numbers[name])
  if sorted(numbers.values()) != list(range(len(ordered))):
    annotation_files.fail(path, 'the numbers', 'must be 0, 1, 2 and so on')
  return [category(f'{name}/') for name in ordered]


class PlacesReader(stored_images.StoredReader):
  """Reads Places365 (see the module and `stored_images.StoredReader`)."""

  def __init__(self, config: ConfigDict, split: str):
    """Finds the images, and for the task `class` their categories.

    Raises:
      ValueError: there are none, or a list is damaged or of other images.
      FileNotFoundError: files are missing.
    """
    missing = missing_inputs(config, (split,))
    found = source(config, split)
    if missing or found is None:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    store = image_stores.opened(found, index_cache.folder(config))
    rows = image_stores.rows(store, images.SUFFIXES, found)
    if found.name == EASY:
      part = f'{_EASY_FOLDER}/{_split(split)}/'
      rows = [row for row in rows if store.names[row].startswith(part)]
    path = _list(config, split)
    numbers = {} if path is None else _numbers(path)
    if path is not None and split == 'train':
      rows = [row for row in rows if _key(store.names[row]) in numbers]
      if not rows:
        raise errors.UserError(
          f'{path} lists no image of {found} (config.data.root).', errors.DATA
        )
    selection = stored_images.listed(config, split, store, rows)
    described = dict(selection.described)
    if path is not None:
      described[path.name] = path
    if config.condition.task == 'class':
      selection = _labelled(config, selection, numbers)
      if (_base(config) / CATEGORIES).is_file():
        described[CATEGORIES] = _base(config) / CATEGORIES
    selection = dataclasses.replace(selection, described=described)
    super().__init__(config, split, selection, TASKS)


def _labelled(
  config: ConfigDict,
  selection: stored_images.Selection,
  numbers: Mapping[str, int],
) -> stored_images.Selection:
  """Adds the categories to the images, without those that have none.

  Raises:
    UserError: none has one.
  """
  official = _categories(_base(config))
  names = [selection.store.names[row] for row in selection.rows]
  of_images = [category(name) for name in names]
  if not any(of_images):  # a flat folder of val
    places = [numbers.get(_key(name), len(official)) for name in names]
    of_images = [dict(enumerate(official)).get(place, '') for place in places]
  there = {name: name for name in sorted({x for x in of_images if x})}
  given = config.data.category_file
  if official and not given:
    labels = {name: 1 + number for number, name in enumerate(official)}
    by_label: tuple[str, ...] = ('', *official)
  else:
    labels, by_label = category_lists.numbered(config, there)
  found = np.array([labels.get(name, 0) for name in of_images], np.int32)
  kept = np.flatnonzero(found)
  if not len(kept):
    raise errors.UserError(
      f'no image of {config.data.root} (config.data.root) has a category, such'
      f' as {names[0]!r}.',
      errors.DATA,
    )
  without = len(found) - len(kept)
  left_out = {'without_category': without} if without else {}
  return dataclasses.replace(
    selection,
    rows=np.asarray(selection.rows, np.int64)[kept].tolist(),
    labels=found[kept],
    label_names=by_label,
    left_out={**selection.left_out, **left_out},
  )
