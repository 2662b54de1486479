"""Do the edges of images lie where they were asked for?

The measure is that of the Berkeley benchmark without its one-to-one matching:
an edge pixel is right if an edge of the other map is near enough. Thick lines
would be right more often, so both maps are thinned first.
"""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from pyramid_jax.metrics import bootstrap


NEAR = 0.0075  # A share of the diagonal, as in the Berkeley benchmark.
# Arrays of an example that hold its edges, the first that is there counts.
ASKED = ('sketch', 'edges')


def tolerance(height: int, width: int) -> float:
  """Returns how far a right edge may lie from its place, in pixels."""
  return max(1.0, NEAR * float(np.hypot(height, width)))


def asked(examples: Mapping[str, np.ndarray]) -> np.ndarray | None:
  """Returns the (B, H, W) bool edges of conditions, None without.

  `sketch` or `edges` of the examples are (B, H, W), white = edge: bool, uint8,
  or float with black at 0 or below and white at 1.
  """
  for name in ASKED:
    if name in examples:
      maps = np.asarray(examples[name])
      return maps >= (128 if maps.dtype == np.uint8 else 0.5)
  return None


def thin(edges: np.ndarray) -> np.ndarray:
  """Thins lines (B, H, W) bool to about one pixel, breaking or erasing none.

  Algorithm A1 of Guo and Hall, 'Parallel thinning with two-subiteration
  algorithms', 1989, which clears from the south and west first.
  """
  from skimage import morphology  # its import is slow

  turned = [morphology.thin(x[::-1, ::-1])[::-1, ::-1] for x in edges]
  return np.stack(turned) if turned else edges


def compare(found: np.ndarray, wanted: np.ndarray) -> dict[str, np.ndarray]:
  """Compares edge maps (B, H, W) bool of images and conditions, one by one.

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


def _pair(found: np.ndarray, wanted: np.ndarray) -> tuple[float, ...]:
  """Returns precision, recall and both mean distances of thin (H, W) maps."""
  if not found.any() or not wanted.any():
    if found.any() == wanted.any():
      return 1.0, 1.0, 0.0, 0.0
    diagonal = float(np.hypot(*found.shape))
    return 0.0, 0.0, diagonal, diagonal
  near = tolerance(*found.shape)
  to_wanted = ndimage.distance_transform_edt(~wanted)[found]
  to_found = ndimage.distance_transform_edt(~found)[wanted]
  shares = [float((x <= near).mean()) for x in (to_wanted, to_found)]
  return *shares, float(to_wanted.mean()), float(to_found.mean())


def pairs(found: np.ndarray, wanted: np.ndarray) -> dict[str, np.ndarray]:
  """Returns `bootstrap.mean_pairs` of edge maps (see `compare`).

  They are edge_f1, edge_precision, edge_recall; in pixels edge_chamfer, and
  edge_missed, the mean distance of a wanted edge to the nearest edge of the
  image: a sketch leaves out details that an image may have.
  """
  values = compare(found, wanted)
  names = {
    'edge_f1': 'f1',
    'edge_precision': 'precision',
    'edge_recall': 'recall',
    'edge_chamfer': 'chamfer',
    'edge_missed': 'to_found',
  }
  return {n: bootstrap.mean_pairs(values[key]) for n, key in names.items()}
