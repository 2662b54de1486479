"""The CLIP maximum mean discrepancy (arXiv:2401.09603).

The biased estimate with a Gaussian kernel of unit vectors, times 1000
(sayakpaul/cmmd-pytorch: distance.py).
"""

import numpy as np


SIGMA = 10.0
SCALE = 1000.0
_BLOCK = 2000  # rows of the kernel at a time


def distance(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the distance of embeddings (N, D) and (M, D), in float64.

  Raises:
    ValueError: no rows, or rows of different lengths.
  """
  if not min(len(x), len(y)) or x.shape[1:] != y.shape[1:]:
    raise ValueError(
      'embeddings must be two arrays of at least one row of the same length,'
      f' got {x.shape} and {y.shape}.'
    )
  a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
  return SCALE * (_mean(a, a) + _mean(b, b) - 2 * _mean(a, b))


def _mean(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the mean of the kernel over all pairs, less 1.

  It is near 1 for unit vectors, and differences of means count.
  """
  squares = np.square(b).sum(1)
  total = 0.0
  for start in range(0, len(a), _BLOCK):
    part = a[start : start + _BLOCK]
    apart = np.square(part).sum(1)[:, None] + squares - 2 * part @ b.T
    total += np.expm1(-apart / (2 * SIGMA**2)).sum()
  return float(total / (len(a) * len(b)))
