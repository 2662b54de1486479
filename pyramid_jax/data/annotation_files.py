"""Reading annotation files, with errors that name the entry.

Centroids of the masks of COCO are computed without rendering the masks.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import json
import pathlib
import sys
from typing import Any
from typing import NoReturn

import numpy as np

from pyramid_jax import errors


def is_number(value: Any) -> bool:
  """Whether a JSON value is a finite number."""
  return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_bbox(value: Any) -> bool:
  if not isinstance(value, list) or len(value) != 4:
    return False
  return all(map(is_number, value)) and min(value[2:]) >= 0


# Kinds of fields, in words, and their tests.
INTEGER = 'an integer'
POSITIVE = 'a positive number'
TEXT = 'a string'
BBOX = '[x, y, width, height]'  # no side negative
_TESTS: Mapping[str, Callable[[Any], bool]] = {
  INTEGER: lambda value: type(value) is int,
  POSITIVE: lambda value: is_number(value) and value > 0,
  TEXT: lambda value: isinstance(value, str),
  BBOX: _is_bbox,
}


def fail(path: pathlib.Path, where: str, what: str) -> NoReturn:
  """Raises the error of a malformed entry."""
  raise errors.UserError(f'{path}: {where} {what}.', errors.DATA)


def load_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that is one JSON object, or raises a UserError."""
  try:
    document = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise errors.UserError(f'{path}: not JSON: {error}.', errors.DATA) from None
  if not isinstance(document, dict):
    fail(path, 'the file', f'must be an object, got {type(document).__name__}')
  return document


def entries(
  path: pathlib.Path,
  document: Mapping[str, Any],
  section: str,
  fields: Mapping[str, str],
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (position, entry) of a list of objects that have these fields.

  `section` is the key of the list in the document of the file, `fields` are
  kinds (`INTEGER` and so on) by the name of a field.

  Raises:
    UserError: the section or a field is missing or of another kind.
  """
  values = document.get(section)
  if not isinstance(values, list):
    fail(path, f'"{section}"', 'must be a list, it is missing or is not one')
  for i, entry in enumerate(values):
    where = f'{section}[{i}]'
    if not isinstance(entry, dict):
      fail(path, where, f'must be an object, got {entry!r:.60}')
    for name, kind in fields.items():
      if name not in entry:
        fail(path, where, f'lacks "{name}"')
      if not _TESTS[kind](entry[name]):
        fail(path, where, f'has "{name}": {entry[name]!r:.60}, must be {kind}')
    yield i, entry


def load_lines(path: pathlib.Path) -> list[tuple[int, str]]:
  """Reads (line number, text) of the lines that are not blank.

  A line ends at a line feed, a carriage return or both, as in JSON lines, and
  not at the separators of Unicode, which a text may have.

  Raises:
    UserError: the file is not UTF-8.
  """
  try:
    text = path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError:
    raise errors.UserError(f'{path}: not UTF-8 text.', errors.DATA) from None
  lines = enumerate(text.split('\n'), 1)  # Opened as text, they end thus.
  return [(number, line.strip()) for number, line in lines if line.strip()]


def _decode_counts(text: str) -> list[int]:
  """Run lengths of COCO's compressed form.

  Six-bit characters hold five bits each, lowest first; from the fourth number
  on, the difference to the number before the last is stored.
  """
  counts: list[int] = []
  value = shift = 0
  for char in text:
    code = ord(char) - 48
    value |= (code & 31) << shift
    shift += 5
    if code & 32:
      continue
    if code & 16:
      value -= 1 << shift
    if len(counts) > 2:
      value += counts[-2]
    counts.append(value)
    value = shift = 0
  return counts


def _run_centroid(
  counts: Sequence[int], height: int
) -> tuple[float, float] | None:
  """Centroid in pixels of runs over columns, the first run is background."""
  ends = np.cumsum(np.asarray(counts, np.int64))
  starts = ends - np.asarray(counts, np.int64)

  def sums(n):  # over i < n: of 1, of i div height, of i
    column, row = np.divmod(n, height)
    return n, height * (column * (column - 1) // 2) + column * row, n * (n - 1)

  low, high = sums(starts[1::2]), sums(ends[1::2])
  area, x, twice = (int((b - a).sum()) for a, b in zip(low, high, strict=True))
  if area <= 0:
    return None
  y = twice // 2 - height * x
  return x / area + 0.5, y / area + 0.5


def _polygon_centroid(
  polygons: Sequence[Sequence[float]],
) -> tuple[float, float] | None:
  total = np.zeros(3)
  for polygon in polygons:
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    x, y = points.T
    nx, ny = np.roll(points, -1, 0).T
    cross = x * ny - nx * y
    area = cross.sum() / 2
    moments = np.array([cross @ (x + nx), cross @ (y + ny)]) / 6
    # Either direction around; parts of one object add up.
    total += np.sign(area) * np.array([area, *moments])
  if total[0] <= 0:
    return None
  return total[1] / total[0], total[2] / total[0]


def centroid(segmentation: Any) -> tuple[float, float] | None:
  """Returns x and y in px of the centre of mass, None without an area.

  A COCO `segmentation` is a list of polygons [x0, y0, x1, y1, ...], or a run-
  length code {'counts': list or compressed string, 'size': [height, width]}.

  Raises:
    ValueError: it is neither.
  """
  try:
    if isinstance(segmentation, list):
      return _polygon_centroid(segmentation)
    counts = segmentation['counts']
    height = segmentation['size'][0]
    if isinstance(counts, str):
      counts = _decode_counts(counts)
    return _run_centroid(counts, height)
  except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
    raise ValueError(f'not a segmentation: {error!r}') from None
