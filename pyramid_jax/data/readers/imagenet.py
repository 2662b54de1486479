"""ImageNet: the 1000 classes of ILSVRC 2012, from the official files.

`config.data.root` is a folder with what image-net.org or Kaggle gives; archives
are read in place:

  train  ILSVRC2012_img_train.tar, or train/ with a tar or a folder of images
         for each synset, or Kaggle's ILSVRC/Data/CLS-LOC/train/
  val    ILSVRC2012_img_val.tar, or val/, or ILSVRC/Data/CLS-LOC/val/; where the
         images are not in folders of their synsets, one of `LABELS`, in the
         folder itself or in that of the development kit

The split `test` reads those of `val`: the labels of the test set are secret.
The class of an image is the rank of its synset among the sorted ones: those of
`config.data.category_file`, without which they are the 1000 of the list
`imagenet`. A condition of text is the name of the class. As in the official
code n06596364_9591.JPEG is left out, and the EXIF orientation is ignored; the
images of four channels or of another format than their names say are read like
all others.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
import re

from absl import logging
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
from pyramid_jax.data.storage import mat_file
from pyramid_jax.files import bounded
from pyramid_jax.files import stores


TASKS = ('none', 'class', 'text', 'superres', 'inpaint')
IGNORED = 'n06596364_9591.JPEG'
COUNTS = {'train': 1_281_167, 'val': 50_000}
_PLACES = {
  'train': (
    *('ILSVRC2012_img_train.tar', 'train'),
    *('ILSVRC/Data/CLS-LOC/train', 'Data/CLS-LOC/train'),
  ),
  'val': (
    *('ILSVRC2012_img_val.tar', 'val'),
    *('ILSVRC/Data/CLS-LOC/val', 'Data/CLS-LOC/val'),
  ),
}
# Files with the classes of the images of val, the first that is there counts:
# of Kaggle (name and synset), taming-transformers (the same), TensorFlow (a
# synset for each image), the development kit (a number of its own for each,
# which meta.mat maps to synsets), and Caffe (name and rank).
_NUMBERS = 'ILSVRC2012_validation_ground_truth.txt'
_META = 'meta.mat'
LABELS = (
  *('LOC_val_solution.csv', 'validation_synset.txt'),
  *('imagenet_2012_validation_synset_labels.txt', _NUMBERS, 'val.txt'),
)
_KITS = ('', 'ILSVRC2012_devkit_t12/data', 'devkit/data')  # their folders
_PACKED_KIT = 'ILSVRC2012_devkit_t12.tar.gz'  # read in place, too
_KIT_BYTES = 64 << 20  # of the kit, 2.6 MB when packed
_META_BYTES = 1 << 20  # of meta.mat, 177 KB
_SYNSET = re.compile(r'n\d{8}')
_VAL = re.compile(r'ILSVRC2012_val_(\d{8})')

Lines = Sequence[tuple[int, str]]


def _split(split: str) -> str:
  return 'val' if split == 'test' else split


def _base(config: ConfigDict) -> stores.Path:
  """Returns the folder of the files."""
  root = stores.path(config.data.root).expanduser()
  return root.parent if archives.is_archive(root) else root


def source(config: ConfigDict, split: str) -> stores.Path | None:
  """Returns the archive or the folder of a split, None without any."""
  root, base = stores.path(config.data.root).expanduser(), _base(config)
  for name in _PLACES[_split(split)]:
    if (base / name).exists():
      return base / name
  if root != base:
    return root if root.exists() and _split(split) == 'train' else None
  names = stores.names(base)
  return base if any(_SYNSET.match(name) for name in names) else None


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  if not config.data.root:
    return ['the folder of ImageNet (config.data.root is empty)']
  lines: dict[str, None] = {}
  for split in dict.fromkeys(map(_split, splits)):
    found = source(config, split)
    base = _base(config)
    if found is None:
      what = ' or '.join(_PLACES[split][:2])
      lines[f'{base / what} (images of ImageNet, config.data.root)'] = None
    elif split == 'val' and _is_flat(found) and not _label_file(base):
      what = ', '.join((*LABELS, _PACKED_KIT))
      lines[f'{base} (labels of val: one of {what}; config.data.root)'] = None
    lines |= dict.fromkeys(image_lists.missing_inputs(config, split))
  return list(lines)


def published_labels(config: ConfigDict) -> tuple[str, ...]:
  """Returns the names of the classes; see `data.published_labels`."""
  listed = _listed(config)
  return category_lists.number(listed, listed)[1]


def _listed(config: ConfigDict) -> Mapping[str, str]:
  name = config.data.category_file or 'imagenet'
  return category_lists.read(category_lists.path_of(name))


def _is_flat(found: stores.Path) -> bool:
  """Whether the images of val are not in folders of their synsets."""
  if archives.is_archive(found):
    return True
  return not any(_SYNSET.fullmatch(name) for name in stores.names(found))


def _label_file(base: stores.Path) -> stores.Path | None:
  """Returns the file with the labels of val, None without one."""
  for folder in _KITS:
    for name in LABELS:
      if (base / folder / name).is_file():
        return base / folder / name
  packed = base / _PACKED_KIT
  return packed if packed.is_file() else None


def _opened(found: stores.Path, cache: pathlib.Path) -> image_stores.Store:
  """Opens the images of a split; a tar for each synset is one of them."""
  if not archives.is_archive(found):
    tars = [x for x in stores.names(found) if x.endswith(archives.TAR)]
    if any(_SYNSET.match(name) for name in tars):
      return archives.Archives([found / x for x in tars], str(found), cache)
  return image_stores.opened(found, cache)


def _synset(name: str) -> str | None:
  """Returns the synset of an image: of its folder, or of its own name."""
  for part in reversed(name.split('/')):
    match = _SYNSET.match(part)
    if match:
      return match[0]
  return None


def _lines(path: stores.Path, data: bytes) -> Lines:
  """Returns the lines of a file in an archive."""
  try:
    text = bounded.decoded(data)
  except ValueError as error:
    annotation_files.fail(path, _NUMBERS, f'is {error}')
  return list(enumerate(text.split(), 1))


def _val_synsets(path: stores.Path, ranked: Sequence[str]) -> dict[int, str]:
  """Returns the synsets of the images of val by the numbers in their names.

  `ranked` are the synsets by rank.

  Raises:
    UserError: a line has no class.
  """
  ids: Mapping[int, str] = {}
  if path.name == _PACKED_KIT:
    kit = {
      name.rpartition('/')[2]: data
      for name, data in archives.unpacked(path, _KIT_BYTES).items()
    }
    if not {_NUMBERS, _META} <= kit.keys():
      annotation_files.fail(path, 'it', f'lacks {_NUMBERS} or {_META}')
    lines, ids = _lines(path, kit[_NUMBERS]), _kit_ids(path, kit[_META])
  else:
    lines = annotation_files.load_lines(path)
    if path.name == _NUMBERS:
      meta = path.parent / _META
      ids = _kit_ids(meta, _meta_bytes(meta))
  return _parsed(path, lines, ids or dict(enumerate(ranked)))


def _parsed(
  path: stores.Path, lines: Lines, ids: Mapping[int, str]
) -> dict[int, str]:
  """Returns the synsets by the numbers of images; see `LABELS`."""
  synsets: dict[int, str] = {}
  for number, line in lines:
    words = line.replace(',', ' ').split()
    if words[0] == 'ImageId':  # the header of Kaggle's table
      continue
    match = _VAL.match(words[0])
    image = int(match[1]) if match else len(synsets) + 1
    word = words[1] if match and len(words) > 1 else words[0]
    if word.isdecimal() and len(word) < 6 and int(word) in ids:
      word = ids[int(word)]
    if not _SYNSET.fullmatch(word):
      annotation_files.fail(
        path, f'line {number}', f'must have a class, got {line!r:.60}'
      )
    synsets[image] = word
  return synsets


def _meta_bytes(path: stores.Path) -> bytes:
  try:
    return bounded.read(path, _META_BYTES)
  except (OSError, ValueError) as error:
    raise errors.UserError(
      f'{path}: {error}; the numbers of {_NUMBERS} are those of that file.',
      errors.MISSING,
    ) from error


def _kit_ids(path: stores.Path, data: bytes) -> dict[int, str]:
  """Returns the synsets by the numbers of the development kit.

  Raises:
    UserError: it is not the table of the kit.
  """
  try:
    if len(data) > _META_BYTES:
      raise ValueError(f'{len(data)} bytes, at most {_META_BYTES} are read')
    ids = {}
    for row in mat_file.table(data, 'synsets'):
      key, synset = row.get('ILSVRC2012_ID'), row.get('WNID')
      if not isinstance(key, int | float) or not isinstance(synset, str):
        raise ValueError('a row without ILSVRC2012_ID and WNID')
      ids[int(key)] = synset
    return ids
  except (ValueError, OverflowError) as error:  # of an infinite number
    raise errors.UserError(
      f'{path}: not the {_META} of the development kit of ILSVRC 2012:'
      f' {error}.',
      errors.DATA,
    ) from error


class ImageNetReader(stored_images.StoredReader):
  """Reads ImageNet (see the module and `stored_images.StoredReader`)."""

  def __init__(self, config: ConfigDict, split: str):
    """Finds the images and their classes.

    Raises:
      ValueError: files that are missing or damaged, or images without a class.
    """
    missing = missing_inputs(config, (split,))
    found = source(config, split)
    if missing or found is None:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    store = _opened(found, index_cache.folder(config))
    rows = [
      row
      for row in image_stores.rows(store, images.SUFFIXES, found)
      if not store.names[row].endswith(IGNORED)
    ]
    chosen = stored_images.listed(config, split, store, rows)
    described = dict(chosen.described)
    listed, teller = _listed(config), found
    if _split(split) == 'val' and _is_flat(found):
      path = _label_file(_base(config))
      assert path is not None  # not missing
      described[path.name] = teller = path
      synsets = _of_val(store, chosen.rows, _val_synsets(path, sorted(listed)))
    else:
      synsets = [_synset(store.names[row]) for row in chosen.rows]
    if not any(synsets):
      raise errors.UserError(
        f'{teller} gives none of the {len(synsets)} images a synset.',
        errors.DATA,
      )
    labels, names = category_lists.number(
      {s: s for s in sorted({x for x in synsets if x})},
      listed,
      config.data.unlisted_categories,
    )
    classes = np.array([labels.get(x or '', 0) for x in synsets], np.int32)
    if _split(split) in COUNTS and archives.is_archive(found):
      _check_count(found, len(rows), COUNTS[_split(split)])
    kept = np.flatnonzero(classes)
    selection = dataclasses.replace(
      chosen,
      rows=np.asarray(chosen.rows, np.int64)[kept].tolist(),
      labels=classes[kept],
      label_names=names,
      described=described,
    )
    super().__init__(config, split, selection, TASKS)
    if len(kept) < len(classes):
      self.report['without_category'] = len(classes) - len(kept)


def _of_val(
  store: image_stores.Store, rows: Sequence[int], synsets: Mapping[int, str]
) -> list[str | None]:
  """Returns the synsets of images of val, None for one that has none."""
  found: list[str | None] = []
  for row in rows:
    match = _VAL.match(store.names[row].rpartition('/')[2])
    found.append(synsets.get(int(match[1])) if match else None)
  return found


def _check_count(path: stores.Path, count: int, official: int) -> None:
  if count not in (official, official - 1):  # with one that is left out
    logging.warning('%s has %d images, ILSVRC 2012 %d', path, count, official)
