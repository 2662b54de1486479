"""Do the edges of pictures lie where they were asked for?

The measure is that of the Berkeley benchmark without its one-to-one matching:
an edge pixel is right if an edge of the other map is near enough. Thick lines
would be right more often, so both maps are thinned first.
"""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import render_numpy
from pyramid_jax.metrics import bootstrap


NEAR = 0.0075  # of the diagonal, as in the Berkeley benchmark
# What carries asked edges, in order of preference: what was drawn, what is
# true of the example.
ASKED = ('sketch', 'edges')


def tolerance(height: int, width: int) -> float:
  """Returns how far a right edge may lie from its place, in pixels."""
  return max(1.0, NEAR * float(np.hypot(height, width)))


def of_shapes(images: np.ndarray) -> np.ndarray:
  """Returns the edges of `shapes` pictures: where colour classes meet.

  Args:
    images: (N, H, W, 3) uint8.

  Returns:
    (N, H, W) bool, lines of one pixel.
  """
  colours, _ = detector.colour_map(detector.check(images))
  return render_numpy.hard_edges(colours)


def asked(examples: Mapping[str, np.ndarray]) -> np.ndarray | None:
  """Returns the edges that examples ask for, None if they do not tell.

  Args:
    examples: perhaps with `sketch` or `edges`, (B, H, W), white = edge: bool,
      uint8, or float with black at 0 or below and white at 1.

  Returns:
    (B, H, W) bool.
  """
  for name in ASKED:
    if name in examples:
      maps = np.asarray(examples[name])
      return maps >= (128 if maps.dtype == np.uint8 else 0.5)
  return None


def thin(edges: np.ndarray) -> np.ndarray:
  """Thins lines to about one pixel, without breaking or erasing any.

  Algorithm A1 of Guo and Hall, 'Parallel thinning with two-subiteration
  algorithms', 1989.

  Args:
    edges: (B, H, W) bool.

  Returns:
    (B, H, W) bool.
  """
  return np.stack([_thin(x) for x in edges]) if len(edges) else edges


def _thin(edges: np.ndarray) -> np.ndarray:
  x = np.pad(edges, 1)
  middle = x[1:-1, 1:-1]  # a view: what is cleared here is cleared in x
  while True:
    before = middle.sum()
    for half in (0, 1):
      middle &= ~_removable(x, half)
    if middle.sum() == before:
      return middle


def _removable(x: np.ndarray, half: int) -> np.ndarray:
  """Returns which pixels inside the rim of (H + 2, W + 2) may go."""
  rows, columns = x.shape
  view = lambda i, j: x[i : rows - 2 + i, j : columns - 2 + j]
  # Clockwise: north, north-east, east ... north-west.
  n, ne, e, se, s, sw, w, nw = (
    view(i, j)
    for i, j in (
      (0, 1),
      (0, 2),
      (1, 2),
      (2, 2),
      (2, 1),
      (2, 0),
      (1, 0),
      (0, 0),
    )
  )
  count = lambda *terms: np.add.reduce([t.astype(np.int8) for t in terms])
  components = count(~n & (ne | e), ~e & (se | s), ~s & (sw | w), ~w & (nw | n))
  pairs = np.minimum(
    count(nw | n, ne | e, se | s, sw | w),
    count(n | ne, e | se, s | sw, w | nw),
  )
  if half == 0:
    kept = (s | sw | ~nw) & w
  else:
    kept = (n | ne | ~se) & e
  return (components == 1) & (pairs >= 2) & (pairs <= 3) & ~kept


def compare(found: np.ndarray, wanted: np.ndarray) -> dict[str, np.ndarray]:
  """Compares edge maps image by image.

  Args:
    found: (B, H, W) bool, of pictures.
    wanted: (B, H, W) bool, what they were asked for.

  Returns:
    (B,) float64 each: `precision`, the share of the found edges that are near
    a wanted one, `recall`, the reverse, `f1`, their harmonic mean: all 1 where
    both maps are empty and 0 where one is. In pixels, `to_wanted`, the mean
    distance of found edges to the nearest wanted one, `to_found`, the reverse,
    and `chamfer`, their sum: 0 where both maps are empty; where one is, a
    distance is the diagonal.

  Raises:
    ValueError: shapes that differ.
  """
  if found.shape != wanted.shape or found.ndim != 3:
    raise ValueError(
      f'edge maps must be two (B, H, W), got {found.shape} and {wanted.shape}.'
    )
  rows = [_pair(f, w) for f, w in zip(thin(found), thin(wanted), strict=True)]
  values = np.array(rows, np.float64).reshape(len(rows), 4)
  precision, recall, to_wanted, to_found = values.T
  total = precision + recall
  return {
    'precision': precision,
    'recall': recall,
    'f1': 2 * precision * recall / np.where(total > 0, total, 1),
    'to_wanted': to_wanted,
    'to_found': to_found,
    'chamfer': to_wanted + to_found,
  }


def _pair(
  found: np.ndarray, wanted: np.ndarray
) -> tuple[float, float, float, float]:
  """Returns precision, recall and both mean distances of thin (H, W) maps."""
  if not found.any() or not wanted.any():
    if found.any() == wanted.any():
      return 1.0, 1.0, 0.0, 0.0
    diagonal = float(np.hypot(*found.shape))
    return 0.0, 0.0, diagonal, diagonal
  near = tolerance(*found.shape)
  to_wanted = ndimage.distance_transform_edt(~wanted)[found]
  to_found = ndimage.distance_transform_edt(~found)[wanted]
  return (
    float((to_wanted <= near).mean()),
    float((to_found <= near).mean()),
    float(to_wanted.mean()),
    float(to_found.mean()),
  )


def scores(found: np.ndarray, wanted: np.ndarray) -> dict[str, bootstrap.Score]:
  """Returns the scores of edge maps, means over images (see `compare`).

  Args:
    found: (B, H, W) bool, of pictures.
    wanted: (B, H, W) bool, what they were asked for.

  Returns:
    edge_f1, edge_precision, edge_recall; in pixels edge_chamfer, and
    edge_missed, from what was asked for to what is there: a sketch leaves out
    details that a picture may have.

  Raises:
    ValueError: shapes that differ.
  """
  values = compare(found, wanted)
  names = {
    'edge_f1': 'f1',
    'edge_precision': 'precision',
    'edge_recall': 'recall',
    'edge_chamfer': 'chamfer',
    'edge_missed': 'to_found',
  }
  return {name: bootstrap.mean(values[key]) for name, key in names.items()}
