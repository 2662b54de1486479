"""The Frechet distance of feature distributions, of which FID is one.

|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)), with the unbiased covariances S.
With R^T R = S the last trace is the sum of the singular values of R1 R2^T: no
matrix square root, nothing imaginary, exact for singular covariances too.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
  """Sums over rows of features, float64; parts of a set can be merged."""

  count: float  # rows
  mean: np.ndarray  # (D,)
  scatter: np.ndarray  # (D, D), sum of outer products of rows about the mean

  def merge(self, other: 'Moments') -> 'Moments':
    """Returns the moments of the rows of both.

    Raises:
      ValueError: rows of other lengths.
    """
    if self.mean.shape != other.mean.shape:
      raise ValueError(
        f'features of {len(self.mean)} and of {len(other.mean)} numbers '
        'cannot be merged.'
      )
    count = self.count + other.count
    if not count:
      return self
    step = other.mean - self.mean
    share = other.count / count
    between = self.count * share * np.outer(step, step)
    return Moments(
      count=count,
      mean=self.mean + share * step,
      scatter=self.scatter + other.scatter + between,
    )

  @property
  def covariance(self) -> np.ndarray:
    """(D, D), unbiased; it needs at least two rows."""
    return self.scatter / (self.count - 1)

  @property
  def arrays(self) -> dict[str, np.ndarray]:
    """All of it, by name."""
    return {n: np.asarray(x) for n, x in dataclasses.asdict(self).items()}

  @classmethod
  def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> 'Moments':
    """Returns the moments that have these `arrays`."""
    mean, scatter = arrays['mean'], arrays['scatter']
    return cls(count=float(arrays['count']), mean=mean, scatter=scatter)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
  """A Gaussian: mean (D,) and a root (K, D), root^T root the covariance."""

  mean: np.ndarray
  root: np.ndarray


def moments(features: np.ndarray) -> Moments:
  """Returns the moments of rows (N, D)."""
  x = np.asarray(features, np.float64)
  count = float(len(x))
  mean = np.ones(len(x)) @ x / count if count else np.zeros(x.shape[1])
  centred = x - mean
  return Moments(count=count, mean=mean, scatter=centred.T @ centred)


def fit_moments(total: Moments) -> Fit:
  """Fits a Gaussian to moments, or raises a ValueError below two rows."""
  if total.count < 2:
    raise ValueError(
      f'a Gaussian needs at least 2 rows of features, got {total.count:g}.'
    )
  return fit_covariance(total.mean, total.covariance)


def fit_covariance(mean: np.ndarray, covariance: np.ndarray) -> Fit:
  """Takes a Gaussian as files of statistics have it: (D,) and (D, D)."""
  values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
  root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
  return Fit(mean=np.asarray(mean, np.float64), root=root)


def fit(features: np.ndarray) -> Fit:
  """Fits a Gaussian to (N, D) features, N at least 2, without a covariance."""
  x = np.asarray(features, np.float64)
  mean = x.mean(0)
  root = np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode='r')
  return Fit(mean=mean, root=np.asarray(root))


def distance(a: Fit, b: Fit) -> float:
  """Returns the squared Frechet distance of two Gaussians.

  Raises:
    ValueError: they have other dimensions.
  """
  if a.mean.shape != b.mean.shape:
    raise ValueError(
      f'Gaussians of {len(a.mean)} and of {len(b.mean)} numbers have no '
      'distance.'
    )
  cross = np.linalg.norm(a.root @ b.root.T, 'nuc')
  spread = np.square(a.root).sum() + np.square(b.root).sum()
  return float(np.square(a.mean - b.mean).sum() + spread - 2 * cross)


def feature_distance(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the squared Frechet distance of Gaussians fitted to features.

  Raises:
    ValueError: fewer than two rows, or rows of different lengths.
  """
  if min(len(x), len(y)) < 2 or x.shape[1:] != y.shape[1:]:
    raise ValueError(
      'features must be two arrays of at least 2 rows of the same length, '
      f'got {x.shape} and {y.shape}.'
    )
  return distance(fit(x), fit(y))
