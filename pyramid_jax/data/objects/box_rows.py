"""The boxes of Open Images, which are rows of CSV.

The file of the training split has 14.6 million rows in 2.3 GB. It is read in
blocks, so that memory holds one of them and the boxes that are wanted.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import csv
import dataclasses
import pathlib

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.files import bounded
from pyramid_jax.files import retries


GROUP, OCCLUDED, DEPICTION, INSIDE = 1, 2, 4, 8  # the bits of `box_flags`
_FLAGS = {
  'IsGroupOf': GROUP,
  'IsOccluded': OCCLUDED,
  'IsDepiction': DEPICTION,
  'IsInside': INSIDE,
}
_ID, _LABEL = 'ImageID', 'LabelName'
_SIDES = ('XMin', 'XMax', 'YMin', 'YMax')  # in the order of the file
_ID_DIGITS = 16  # hexadecimal
# One character more than the longest, so that a longer one is noticed.
_TYPES = {
  _ID: f'S{_ID_DIGITS + 1}',
  _LABEL: 'S33',
  **dict.fromkeys(_SIDES, 'f8'),
  **dict.fromkeys(_FLAGS, 'i1'),
}
_BLOCK_BYTES = 1 << 24
_LOG_SECS = 10
_FEW_ROWS = 1000  # that are read before half of them may not be faulty
# The value of a hexadecimal digit by its character; other characters: 255.
_NIBBLES = np.full(256, 255, np.uint8)
for _digit in '0123456789abcdefABCDEF':
  _NIBBLES[ord(_digit)] = int(_digit, 16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes:
  """The M boxes of a file that are wanted, in its order."""

  ids: np.ndarray  # (M,) uint64, the images
  boxes: np.ndarray  # (M, 4) float64 x0, y0, x1, y1 of the full image
  area: np.ndarray  # (M,) float64
  labels: np.ndarray  # (M,) int32
  flags: np.ndarray  # (M,) int32 `box_flags`
  faults: Sequence[str]  # what is left out, in lines for the log


def read(
  path: pathlib.Path, labels: Mapping[str, int], min_area: float
) -> Boxes:
  """Reads the boxes of a file.

  A flag is set unless it is 0: -1, which means that nobody looked, counts as
  set, as it does for the published models (taming-transformers:
  annotated_objects_open_images.py).

  Args:
    path: the CSV, with a header and the columns of the official files; others
      may stand between them.
    labels: label by category id; boxes of others, or of 0, are passed over.
    min_area: boxes of a smaller area are passed over.

  Raises:
    UserError: columns are missing, or more than half of the rows cannot be
      used.
  """
  rows = _Rows(path)
  parts = []
  for block in rows:
    label = _look_up(block[_LABEL], labels)
    x0, x1, y0, y1 = (block[side] for side in _SIDES)
    # The official code keeps width and height, so that both are rounded.
    width, height = x1 - x0, y1 - y0
    area = width * height
    kept = (label > 0) & (area >= min_area)
    flags = np.zeros(len(block), np.int32)
    for name, bit in _FLAGS.items():
      flags[block[name] != 0] |= bit
    parts.append(
      (
        _id_numbers(block[_ID][kept])[0],
        np.stack([x0, y0, x0 + width, y0 + height], axis=-1)[kept],
        area[kept],
        label[kept],
        flags[kept],
      )
    )
  ids, boxes, area, label, flags = (
    np.concatenate(column) for column in zip(*parts, strict=True)
  )
  return Boxes(
    ids=ids,
    boxes=boxes,
    area=area,
    labels=label,
    flags=flags,
    faults=rows.faults(),
  )


def image_names(ids: np.ndarray) -> np.ndarray:
  """Returns the names (N,) bytes of images, 16 hexadecimal digits each.

  `ids` are (N,) uint64.
  """
  digits = np.frombuffer(b'0123456789abcdef', np.uint8)
  pairs = ids.astype('>u8').view(np.uint8).reshape(-1, 8)
  text = np.stack([digits[pairs >> 4], digits[pairs & 15]], axis=-1)
  return text.reshape(-1, _ID_DIGITS).view(f'S{_ID_DIGITS}').reshape(-1)


def _id_numbers(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the numbers (N,) uint64 of names (N,), and which are names."""
  width = names.dtype.itemsize
  text = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), width)
  nibbles = _NIBBLES[text[:, :_ID_DIGITS]]
  is_name = (nibbles < 16).all(axis=-1) & (text[:, _ID_DIGITS:] == 0).all(-1)
  pairs = nibbles[:, ::2] << 4 | (nibbles[:, 1::2] & 15)
  return np.ascontiguousarray(pairs).view('>u8').reshape(-1).astype(
    np.uint64
  ), is_name


def _look_up(names: np.ndarray, labels: Mapping[str, int]) -> np.ndarray:
  """Returns the labels (N,) int32 of category ids (N,), 0 for others."""
  present, rows = np.unique(names, return_inverse=True)
  known = [labels.get(name.decode('latin-1'), 0) for name in present]
  return np.array(known, np.int32)[rows]


class _Rows:
  """Blocks of rows, structured by `_TYPES`, without those that are faulty."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._seen = 0
    self._left_out = 0
    self._first = ''  # where the first faulty row is, and what is wrong

  def __iter__(self) -> Iterator[np.ndarray]:
    """Yields at least one block.

    Raises:
      UserError: columns are missing, or most rows are faulty.
    """
    number = 1
    columns: list[int] = []
    for lines in _blocks(self._path):
      if not columns:
        columns = self._columns(lines.pop(0))
      rows, numbers = self._parse(lines, number + 1, columns)
      number += len(lines)
      self._seen += len(lines)
      yield rows[self._usable(rows, numbers)]
      self._check()
      logging.log_every_n_seconds(
        logging.INFO, '%s: %d rows are read', _LOG_SECS, self._path, self._seen
      )
    if not columns:
      annotation_files.fail(self._path, 'the file', 'is empty')

  def faults(self) -> list[str]:
    """Returns what was left out in a line for the log, or nothing."""
    if not self._left_out:
      return []
    return [
      f'{self._path}: {self._left_out} of {self._seen} rows are left out, the'
      f' first: {self._first}'
    ]

  def _columns(self, header: str) -> list[int]:
    names = next(csv.reader([header.removeprefix('\ufeff')]), [])
    lacking = [name for name in _TYPES if name not in names]
    if lacking:
      annotation_files.fail(
        self._path,
        'the header',
        f'lacks the columns {", ".join(lacking)} of the boxes of Open Images,'
        f' got {header!r:.100}',
      )
    return [names.index(name) for name in _TYPES]

  def _parse(
    self, lines: list[str], number: int, columns: list[int]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of lines and their line numbers; others are left out.

    Lines among which one is faulty are halved until it is found.
    """
    dtype = np.dtype(list(_TYPES.items()))
    if not lines:
      return np.zeros(0, dtype), np.zeros(0, np.int64)
    try:
      rows = np.loadtxt(
        lines, dtype, delimiter=',', usecols=columns, comments=None, ndmin=1
      )
      return rows, number + np.arange(len(lines))
    except ValueError as error:
      if len(lines) == 1:
        self._leave_out(number, 1, f'is no box: {error}')
        return self._parse([], number, columns)
    middle = len(lines) // 2
    halves = [
      self._parse(lines[:middle], number, columns),
      self._parse(lines[middle:], number + middle, columns),
    ]
    rows, numbers = zip(*halves, strict=True)
    return np.concatenate(rows), np.concatenate(numbers)

  def _usable(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns which rows have an image and a box, and counts the others."""
    _, is_name = _id_numbers(rows[_ID])
    x0, x1, y0, y1 = (rows[side] for side in _SIDES)
    finite = np.isfinite(x0 + x1 + y0 + y1)
    tests = {
      'has an ImageID that is not 16 hexadecimal digits': is_name,
      'has sides that are not finite, XMin <= XMax and YMin <= YMax': (
        finite & (x0 <= x1) & (y0 <= y1)
      ),
    }
    usable = np.ones(len(rows), bool)
    for fault, passed in tests.items():
      bad = np.flatnonzero(usable & ~passed)
      if len(bad):
        self._leave_out(int(numbers[bad[0]]), len(bad), fault)
      usable &= passed
    return usable

  def _leave_out(self, number: int, count: int, fault: str) -> None:
    self._left_out += count
    self._first = self._first or f'line {number} {fault}'
    if self._left_out > self._seen + (1 << 20):  # a block of nothing else
      self._refuse()

  def _check(self) -> None:
    if self._seen > limits.BOXES:
      annotation_files.fail(
        self._path, 'the file', f'has more than {limits.BOXES} rows'
      )
    if self._seen >= _FEW_ROWS and 2 * self._left_out > self._seen:
      self._refuse()

  def _refuse(self) -> None:
    raise errors.UserError(f'{self.faults()[0]}.', errors.DATA)


def _blocks(path: pathlib.Path) -> Iterator[list[str]]:
  """Yields the lines of a file in blocks, none of them empty.

  Raises:
    UserError: it is no file, or a line is too long.
  """
  try:
    file = retries.repeat(lambda: bounded.opened(path, limits.FILE_BYTES), path)
  except ValueError as error:
    raise errors.UserError(f'{path}: {error}.', errors.DATA) from None
  with file:
    rest = b''
    while data := retries.repeat(lambda: file.read(_BLOCK_BYTES), path):
      whole, end, rest = (rest + data).rpartition(b'\n')
      if len(rest) > limits.LINE_CHARACTERS:
        annotation_files.fail(
          path, 'a line', f'has more than {limits.LINE_CHARACTERS} bytes'
        )
      if end and (lines := _lines(whole)):
        yield lines
    if lines := _lines(rest):
      yield lines


def _lines(data: bytes) -> list[str]:
  # What is not UTF-8 stays in its row, which is then faulty or not asked for.
  text = data.decode('utf-8', 'replace').replace('\r', '')
  return [line for line in text.split('\n') if line.strip()]
