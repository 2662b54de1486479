"""The kernel Inception distance (arXiv:1801.01401).

The unbiased estimate of the squared maximum mean discrepancy with the kernel
(x . y / D + 1)^3, as the mean over random subsets that torch-fidelity draws
(toshas/torch-fidelity: torch_fidelity/metric_kid.py). It is not biased by few
images, as FID is.
"""

import numpy as np


SUBSETS = 100
SUBSET_SIZE = 1000  # features of each set
SEED = 2020  # of the subsets


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the unbiased estimate for features (N, D) and (M, D).

  Raises:
    ValueError: fewer than two rows, or rows of different lengths.
  """
  if min(len(x), len(y)) < 2 or x.shape[1:] != y.shape[1:]:
    raise ValueError(
      'features must be two arrays of at least 2 rows of the same length, '
      f'got {x.shape} and {y.shape}.'
    )
  a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
  within = sum(map(_mean_of_others, (a, b)))
  return float(within - 2 * _kernel(a, b).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  base = x @ y.T
  base /= x.shape[1]
  base += 1
  # A power of 3 takes ten times as long.
  return base * base * base


def _mean_of_others(x: np.ndarray) -> float:
  """Returns the mean of the kernel over pairs of different rows."""
  values = _kernel(x, x)
  n = len(x)
  return float((values.sum() - np.trace(values)) / (n * (n - 1)))


def of_subsets(
  samples: np.ndarray,
  real: np.ndarray,
  subsets: int = SUBSETS,
  size: int = SUBSET_SIZE,
  seed: int = SEED,
) -> np.ndarray:
  """Returns the distance (subsets,) of random subsets of features.

  Samples are (N, D), real ones (M, D), N and M at least `size`.

  Raises:
    ValueError: fewer features than a subset has.
  """
  if min(len(samples), len(real)) < size:
    raise ValueError(
      f'subsets of {size} need as many features, got {len(samples)} and '
      f'{len(real)}.'
    )
  random = np.random.RandomState(seed)

  def drawn(features: np.ndarray) -> np.ndarray:
    return features[random.choice(len(features), size, replace=False)]

  return np.array(
    [squared_mmd(drawn(samples), drawn(real)) for _ in range(subsets)]
  )
