"""Precision and recall of samples by the manifolds of features.

arXiv:1904.06991, as openai/guided-diffusion computes it: a set covers the
balls around its points that reach to their k-th neighbours. Precision is the
part of the samples inside the real set, recall the part of the real images
inside the set of samples.
"""

from collections.abc import Sequence

import numpy as np

from pyramid_jax.metrics import distances


NEIGHBOURS = (3,)


def radii(
  features: np.ndarray,
  neighbours: Sequence[int] = NEIGHBOURS,
  percentile: float | None = None,
) -> np.ndarray:
  """Returns the squared distances (N, K) of rows (N, D) to k-th neighbours.

  Each k is at most N - 1, for a point is not its own neighbour. Radii above the
  `percentile` become 0; None = none do.

  Raises:
    ValueError: a k for which there are too few points.
  """
  wrong = [k for k in neighbours if not 1 <= k < len(features)]
  if wrong or not len(neighbours):
    raise ValueError(
      f'neighbours are {tuple(neighbours)}, must be 1..{len(features) - 1}: '
      f'there are {len(features)} points.'
    )
  nearest = distances.to_nearest(features, max(neighbours))
  out = nearest[:, [k - 1 for k in neighbours]]
  if percentile is not None:
    out[out > np.percentile(out, percentile, axis=0)] = 0
  return out


def covered(
  points: np.ndarray, features: np.ndarray, reach: np.ndarray
) -> np.ndarray:
  """Returns the share (K,) of points (N, D) that lie in a ball of a set.

  The balls have the middles (M, D) and the squared radii `reach` (M, K).
  """
  return distances.are_within(points, features, reach).mean(0)


def precision_recall(
  real: np.ndarray, samples: np.ndarray, neighbours: Sequence[int] = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
  """Returns precision (K,) and recall (K,), biased where N and M differ.

  `real` are features (N, D) of real images, `samples` (M, D) those of samples;
  each neighbour has its own values.

  Raises:
    ValueError: features of different lengths, or as `radii`.
  """
  if real.shape[1:] != samples.shape[1:]:
    raise ValueError(
      f'features {real.shape} and {samples.shape} must have the same length.'
    )
  precision = covered(samples, real, radii(real, neighbours))
  recall = covered(real, samples, radii(samples, neighbours))
  return precision, recall
