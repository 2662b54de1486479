"""CIFAR-10: 60,000 images of 32 px in 10 classes, of the binary version.

`config.data.root` is cifar-10-binary.tar.gz, which is read in place, or a
folder that holds it, cifar-10-batches-bin/, or the files themselves
(www.cs.toronto.edu/~kriz/cifar.html). A file has 10,000 records of a byte of
the class and 3072 of the pixels, by channel, row and column; batches.meta.txt
has the names of the classes. A class c becomes the label 1 + c. `train` are the
five data_batch files, `val` and `test` the test_batch. The Python version is
not read: it is a pickle.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import functools
import pathlib

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import file_reader
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.storage import archives
from pyramid_jax.files import bounded
from pyramid_jax.files import retries
from pyramid_jax.files import stores


TASKS = ('none', 'class', 'text', 'superres', 'inpaint')
ARCHIVE = 'cifar-10-binary.tar.gz'
FOLDER = 'cifar-10-batches-bin'
NAMES = 'batches.meta.txt'
SIDE, CLASSES, RECORDS = 32, 10, 10_000
_RECORD = 1 + 3 * SIDE * SIDE  # bytes
_FILE = RECORDS * _RECORD
_TRAIN = tuple(f'data_batch_{i}.bin' for i in range(1, 6))
_TEST = ('test_batch.bin',)
_UNPACKED = 200 << 20  # bytes of the archive, which unpacks to 184 MB


def _files(split: str) -> tuple[str, ...]:
  return _TRAIN if split == 'train' else _TEST


def source(config: ConfigDict) -> stores.Path:
  """Returns the archive, or the folder of the files."""
  root = stores.path(config.data.root).expanduser()
  if root.name.endswith('.tar.gz') or (root / NAMES).is_file():
    return root
  for name in (FOLDER, ARCHIVE):
    if (root / name).exists():
      return root / name
  return root


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  if not config.data.root:
    return ['the folder of CIFAR-10 (config.data.root is empty)']
  path = source(config)
  if path.is_file():
    return []
  names = [NAMES, *(name for split in splits for name in _files(split))]
  absent = [x for x in dict.fromkeys(names) if not (path / x).is_file()]
  if not absent:
    return []
  what = f'{path / absent[0]} (CIFAR-10 binary version, config.data.root'
  return [f'{what}; or {ARCHIVE} there)']


def _contents(path: stores.Path, names: Iterable[str]) -> Mapping[str, bytes]:
  """Returns files of the set.

  Raises:
    UserError: the archive lacks one, or one has another size.
  """
  if path.is_file():
    unpacked = archives.unpacked(path, _UNPACKED)
    found = {x.rpartition('/')[2]: data for x, data in unpacked.items()}
  else:
    read = functools.partial(bounded.read, most=_FILE)
    try:
      found = {
        name: retries.repeat(functools.partial(read, path / name), name)
        for name in names
      }
    except ValueError as error:
      raise errors.UserError(f'{path}: {error}.', errors.DATA) from error
  for name in names:
    if name not in found:
      raise errors.UserError(f'{path} lacks {name}.', errors.DATA)
    size = len(found[name])
    if name != NAMES and size != _FILE:
      raise errors.UserError(
        f'{path}/{name} has {size} bytes, must have {_FILE}: {RECORDS} records'
        f' of {_RECORD}.',
        errors.DATA,
      )
  return {name: found[name] for name in names}


class Cifar10Reader(file_reader.FileReader):
  """Reads CIFAR-10 into memory (see the module and `reader.Reader`).

  Examples have what `FileReader.cut` returns (`id` is the place in the files),
  and `class`, 1 to 10; with a text condition what `text_arrays` returns of the
  name of the class.
  """

  def __init__(self, config: ConfigDict, split: str):
    """Reads the files of a split.

    Raises:
      ValueError: a file is not what it must be, or a task that has no data.
      FileNotFoundError: a file is missing.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    reader_lib.check_task(config, TASKS)
    path, names = source(config), _files(split)
    found = _contents(path, (NAMES, *names))
    self.label_names = ('', *_class_names(path, found[NAMES]))
    records = np.frombuffer(b''.join(found[x] for x in names), np.uint8)
    records = records.reshape(-1, _RECORD)
    self._labels = records[:, 0]
    if self._labels.max() >= CLASSES:
      raise errors.UserError(
        f'{path}: {names} have the class {self._labels.max()}, must be below'
        f' {CLASSES}.',
        errors.DATA,
      )
    self._pixels = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    super().__init__(config, split, len(records), 'bicubic')
    self._files = {
      name: (path if path.is_file() else path / name) for name in names
    }
    self.id_counts = id_ranges.counts(config, self.label_names, self.tokenizer)
    logging.info('%d images of cifar10, %s, in %s', len(self), split, path)

  def identity(self) -> identity.Identity:
    """Returns the files; see `reader.Reader`."""
    paths = {path.name: pathlib.Path(path) for path in self._files.values()}
    return {
      identity.FILES: {
        **identity.of_files(paths),
        **identity.of_config(self._config),
      }
    }

  def captions(self) -> Iterable[str]:
    """Returns the texts that examples may have, the names of classes."""
    return self.label_names[1:]

  def example(self, index: int, draw: np.uint64) -> file_reader.Example:
    """Returns one example; see `FileReader.cut`."""
    image = self._pixels[index].transpose(1, 2, 0)
    example, _, _ = self.cut(image, index, draw)
    label = 1 + int(self._labels[index])
    example['class'] = np.asarray(label, np.int32)
    if self.tokenizer is not None:
      example |= self.text_arrays(self.label_names[label])
    return example


def _class_names(path: stores.Path, data: bytes) -> list[str]:
  """Returns the names of the classes."""
  names = data.decode(errors='replace').split()
  if len(names) != CLASSES:
    raise errors.UserError(
      f'{path}/{NAMES} has {len(names)} names, must have {CLASSES}.',
      errors.DATA,
    )
  return names
