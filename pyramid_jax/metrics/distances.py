"""Squared distances of many rows of features, in constant memory.

Most pairs are far from mattering, which float32 tells: a tile of pairs is one
product of matrices that gives lower bounds, with the rounding errors of the
product taken off. The few pairs that may matter are computed in float64 from
their differences, so that results are those of float64.
"""

from collections.abc import Iterator
import dataclasses

from absl import logging
import numpy as np


_TILE = 2000  # rows and columns of pairs at a time
_SPARE = 5  # pairs of a row that are kept beyond those asked for
_EXACT = 2**23  # float64 numbers of differences at a time
_UNIT = 2.0**-24  # rounding of float32
_TINY = 1e-30  # beyond what underflow takes, in units of the largest row
_SECONDS = 10  # between lines of a log


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
  """Rows (N, D) about a middle, divided by a power of two."""

  x: np.ndarray
  middle: np.ndarray  # (D,) float64
  scale: float
  squares: np.ndarray  # (N,) float64, of the rows in float32

  def part(self, where: slice) -> np.ndarray:
    """Returns some rows in float32."""
    return _shifted(self.x[where], self.middle, self.scale)

  @property
  def errors(self) -> np.ndarray:
    """(N,): a distance errs by less than the sum of those of its two rows.

    A product of D terms errs by D roundings of |a||b|, which is at most half of
    the sum of squares; rounding of rows and of sums takes a few more.
    """
    return _UNIT * (self.x.shape[1] + 16) * self.squares + _TINY


def _shifted(x: np.ndarray, middle: np.ndarray, scale: float) -> np.ndarray:
  return ((x - middle) / scale).astype(np.float32)


def _tiles(count: int) -> list[slice]:
  starts = range(0, count, _TILE)
  return [slice(start, min(start + _TILE, count)) for start in starts]


def _about_one_middle(*sets: np.ndarray) -> list[_Rows]:
  """Returns rows about the middle of the last set, of lengths up to 1."""
  middle = sets[-1].mean(0, dtype=np.float64)
  largest = max(
    float(np.abs(x[where] - middle).max())
    for x in sets
    for where in _tiles(len(x))
  )
  width = sets[-1].shape[1]
  scale = 2.0 ** np.ceil(np.log2(max(largest * np.sqrt(width), _TINY)))
  found = []
  for x in sets:
    parts = (_shifted(x[where], middle, scale) for where in _tiles(len(x)))
    squares = [np.square(part, dtype=np.float64).sum(1) for part in parts]
    found.append(
      _Rows(x=x, middle=middle, scale=scale, squares=np.concatenate(squares))
    )
  return found


def _lower_bounds(
  a: _Rows, b: _Rows, symmetric: bool = False
) -> Iterator[tuple[slice, slice, np.ndarray]]:
  """Yields tiles of lower bounds (R, C) float32 of squared distances.

  They are in units of `scale`, of all pairs; `symmetric`, for a set and itself,
  those on the diagonal and above it alone.
  """
  low_a, low_b = ((x.squares - x.errors).astype(np.float32) for x in (a, b))
  for rows in _tiles(len(a.x)):
    logging.log_every_n_seconds(
      logging.INFO,
      'distances: %d of %d rows',
      *(_SECONDS, rows.start, len(a.x)),
    )
    left = -2 * a.part(rows)
    for columns in _tiles(len(b.x)):
      if symmetric and columns.start < rows.start:
        continue
      tile = left @ b.part(columns).T
      tile += low_a[rows, None]
      tile += low_b[columns]
      yield rows, columns, tile


def _places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns rows and columns of what is true, as `nonzero`, but faster."""
  return np.divmod(np.flatnonzero(mask), mask.shape[1])


def of_pairs(
  a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
  """Returns squared distances (P,) float64 of rows of (N, D) and (M, D)."""
  out = np.empty(len(rows))
  size = max(1, _EXACT // a.shape[1])
  for start in range(0, len(rows), size):
    some = slice(start, start + size)
    apart = a[rows[some]].astype(np.float64) - b[columns[some]]
    out[some] = np.einsum('pd,pd->p', apart, apart)
  return out


def to_nearest(x: np.ndarray, count: int) -> np.ndarray:
  """Returns squared distances (N, count), rising, to the nearest other rows.

  `x` is (N, D), `count` at most N - 1.
  """
  n = len(x)
  kept = min(count + _SPARE, n - 1)
  bounds = np.full((n, kept), np.inf, np.float32)
  index = np.zeros((n, kept), np.int64)
  (own,) = _about_one_middle(x)
  for rows, columns, tile in _lower_bounds(own, own, symmetric=True):
    if rows == columns:
      np.fill_diagonal(tile, np.inf)
    _insert(bounds[rows], index[rows], tile, columns.start)
    if rows != columns:
      turned = np.ascontiguousarray(tile.T)
      _insert(bounds[columns], index[columns], turned, rows.start)
  exact = of_pairs(x, x, np.repeat(np.arange(n), kept), index.ravel())
  out = np.sort(exact.reshape(n, kept), axis=1)[:, :count]
  # What was not kept is not nearer than its bound.
  reach = bounds.max(1).astype(np.float64) * own.scale**2
  unsure = np.flatnonzero((reach < out[:, -1]) & (kept < n - 1))
  for row in unsure:
    all_ = of_pairs(x, x, np.full(n, row), np.arange(n))
    out[row] = np.sort(np.delete(all_, row))[:count]
  return out


def _insert(
  bounds: np.ndarray, index: np.ndarray, tile: np.ndarray, first: int
) -> None:
  """Puts what is smaller in a tile (R, C) into the kept pairs (R, K).

  `first` is the number of the tile's first column.
  """
  kept = bounds.shape[1]
  if np.isinf(bounds).any():  # the first tile of these rows
    width = min(kept, tile.shape[1])
    columns = np.argpartition(tile, width - 1, axis=1)[:, :width]
    values = np.take_along_axis(tile, columns, 1)
  else:
    rows, found = _places(tile < bounds.max(1)[:, None])
    if not len(rows):
      return
    counts = np.bincount(rows, minlength=len(tile))
    rank = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    values = np.full((len(tile), counts.max()), np.inf, np.float32)
    columns = np.zeros(values.shape, np.int64)
    values[rows, rank], columns[rows, rank] = tile[rows, found], found
  values = np.concatenate([bounds, values], axis=1)
  numbers = np.concatenate([index, columns + first], axis=1)
  best = np.argpartition(values, kept - 1, axis=1)[:, :kept]
  bounds[:] = np.take_along_axis(values, best, 1)
  index[:] = np.take_along_axis(numbers, best, 1)


def are_within(
  points: np.ndarray, middles: np.ndarray, reach: np.ndarray
) -> np.ndarray:
  """Returns (N, K) bool: which points (N, D) lie in any ball.

  The balls have the middles (M, D) and K squared radii `reach` (M, K).
  """
  inside = np.zeros((len(points), reach.shape[1]), bool)
  a, b = _about_one_middle(points, middles)
  errors_a, errors_b = 2 * a.errors, 2 * b.errors
  radii = reach / b.scale**2
  # In float32 a radius may have become smaller.
  wider = np.nextafter(radii.astype(np.float32), np.float32(np.inf))
  for rows, columns, tile in _lower_bounds(a, b):
    for k in range(reach.shape[1]):
      found = inside[rows, k]
      if found.all():
        continue
      r, c = _places(tile <= wider[columns, k])
      upper = tile[r, c] + errors_a[rows][r] + errors_b[columns][c]
      found[r[upper <= radii[columns, k][c]]] = True
      _settle(
        found, (points[rows], middles[columns]), reach[columns, k], (r, c)
      )
  return inside


def _settle(
  found: np.ndarray,
  sets: tuple[np.ndarray, np.ndarray],
  reach: np.ndarray,
  pairs: tuple[np.ndarray, np.ndarray],
) -> None:
  """Marks rows of which a pair is within reach in `found` (R,).

  Pairs of rows that are marked are not looked at; of the others the first ones
  come first.
  """
  r, c = pairs
  counts = np.bincount(r, minlength=len(found))
  rank = np.arange(len(r)) - (np.cumsum(counts) - counts)[r]
  open_ = np.flatnonzero(~found[r])
  order = open_[np.argsort(rank[open_], kind='stable')]
  while len(order):
    size = max(1, min(len(found), _EXACT // sets[0].shape[1]))
    some, order = order[:size], order[size:]
    within = of_pairs(*sets, r[some], c[some]) <= reach[c[some]]
    found[r[some][within]] = True
    order = order[~found[r[order]]]
