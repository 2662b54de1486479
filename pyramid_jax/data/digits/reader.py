"""The reader of digits: `config.data.name = 'digits'`."""

from collections.abc import Iterable

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data import category_lists
from pyramid_jax.data import file_reader
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.digits import files


TASKS = ('none', 'class', 'superres', 'inpaint')
MARGIN = 2  # px of black on each side: 28 x 28 px become 32 x 32
_NAMES = {number: str(number) for number in range(files.CLASSES)}


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  root = config.data.root
  if not root:
    return [] if files.bundled() else [files.NEEDED]
  paths = [path for split in splits for path in files.official(root, split)]
  lines = [
    f'{path} (file of MNIST, config.data.root)'
    for path in paths
    if not path.is_file()
  ]
  return list(dict.fromkeys(lines))


def published_labels(config: ConfigDict) -> tuple[str, ...]:
  """Returns the names of the labels: padding, then the digits."""
  return category_lists.numbered(config, _NAMES)[1]


def padded(digits: np.ndarray) -> np.ndarray:
  """Returns digits (N, 28, 28) as images (N, 32, 32, 3) uint8."""
  wide = np.pad(digits, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
  return np.repeat(wide[..., None], 3, axis=-1)


class DigitsReader(file_reader.FileReader):
  """Reads digits (see `files` and `reader.Reader`).

  Examples have what `FileReader.cut` returns, of an image of 32 x 32 px (white
  on black, as the files have them), and `class`: 1 + the digit.
  """

  def __init__(self, config: ConfigDict, split: str):
    """Reads the files; they stay in memory.

    Raises:
      ValueError: a task that digits do not serve, or mirrored digits.
      UserError: damaged files.
      FileNotFoundError: there are none.
    """
    reader_lib.check_task(config, TASKS)
    if config.data.flip:
      raise ValueError(
        'config.data.flip is True, must be False with config.data.name ='
        ' digits: a mirrored digit is none.'
      )
    self._split = split
    digits, numbers = files.load(config.data.root, split)
    self._images = padded(digits)
    labels, self.label_names = category_lists.numbered(config, _NAMES)
    self._labels = np.array([labels[n] for n in _NAMES], np.int32)[numbers]
    super().__init__(config, split, len(numbers), 'bicubic')
    self.id_counts = id_ranges.counts(config, self.label_names, None)

  def identity(self) -> identity.Identity:
    """Returns the content of the files; see `reader.Reader`."""
    root = self._config.data.root
    if root:
      paths = {x.name: x for x in files.official(root, self._split)}
    else:
      path = files.bundled()
      paths = {} if path is None else {path.name: path}
    named = {**identity.of_files(paths), **identity.of_config(self._config)}
    return {identity.FILES: named}

  def example(self, index: int, draw: np.uint64) -> file_reader.Example:
    """Returns one example."""
    example, _, _ = self.cut(self._images[index], index, draw)
    example['class'] = np.asarray(self._labels[index], np.int32)
    return example
