"""Centroids of the masks of COCO, computed without rendering the masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np


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
