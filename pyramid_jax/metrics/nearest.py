"""Whether samples are copies of real images, by nearest neighbours."""

import numpy as np

from pyramid_jax.metrics import precision_recall


QUANTILE = 0.01
FEWEST = 100  # real images, so that the quantile lies between two of them


def copied_share(real: np.ndarray, samples: np.ndarray) -> float:
  """Returns the share of samples that are nearer to a real image than usual.

  `real` are features (N, D), `samples` (M, D). Usual is what 99 % of the real
  images keep from their nearest neighbour, so about 0.01 is the share of new
  real images, and samples that are copies have a share of 1.

  Raises:
    ValueError: fewer than `FEWEST` real images, or features of other lengths.
  """
  if len(real) < FEWEST or real.shape[1:] != samples.shape[1:]:
    raise ValueError(
      f'features {real.shape} and {samples.shape} must have the same length, '
      f'and the first at least {FEWEST} rows.'
    )
  reach = limits(precision_recall.radii(real, (1,))[:, 0])
  return float(precision_recall.covered(samples, real, reach[:, None])[0])


def limits(radii: np.ndarray) -> np.ndarray:
  """Returns the squared distance (N,) below which samples are copies.

  `radii` (N,) are those of the real images to their nearest neighbours.
  """
  return np.full(len(radii), np.quantile(radii, QUANTILE))
