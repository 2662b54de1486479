"""The CLIP maximum mean discrepancy (arXiv:2401.09603).

The biased estimate with a Gaussian kernel of unit vectors, times 1000
(sayakpaul/cmmd-pytorch: distance.py).

The kernel of x and y is that of their norms times e^s, s = x y / sigma^2. The
mean over pairs of the terms up to s^2 follows from sums over rows of x and of
x x^T alone, in float64. Of unit vectors s is at most 0.01, so that the rest of
e^s is less than 2e-7, and float32 gives the mean of it to 1e-13.
"""

import math
from typing import Any

from absl import logging
import numpy as np


SIGMA = 10.0
SCALE = 1000.0
_TILE = 2000  # rows and columns of pairs at a time
_SMALL = 0.02  # s for which float32 is enough
_LEAST = 1e-18  # the last term of the rest
_SECONDS = 10  # between lines of a log


def distance(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the distance of embeddings (N, D) and (M, D).

  Raises:
    ValueError: no rows, or rows of different lengths.
  """
  if not min(len(x), len(y)) or x.shape[1:] != y.shape[1:]:
    raise ValueError(
      'embeddings must be two arrays of at least one row of the same length,'
      f' got {x.shape} and {y.shape}.'
    )
  largest = max(np.square(z, dtype=np.float64).sum(1).max() for z in (x, y))
  bound = float(largest) / SIGMA**2
  ours, theirs = _moments(x), _moments(y)
  # The squared distance of the means of the features whose product the kernel
  # is: those of each term.
  factors = (1, 1 / SIGMA**2, 1 / (2 * SIGMA**4))
  apart = sum(
    factor * float(np.square(a - b).sum())
    for factor, a, b in zip(factors, ours, theirs, strict=True)
  )
  rest = _mean_rest(x, x, bound) + _mean_rest(y, y, bound)
  return SCALE * (apart + rest - 2 * _mean_rest(x, y, bound))


def _weights(x: np.ndarray) -> np.ndarray:
  """Returns the factors (N,) of the kernel that norms of rows give."""
  return np.exp(-np.square(x, dtype=np.float64).sum(1) / (2 * SIGMA**2))


def _tiles(count: int) -> list[slice]:
  return [slice(i, min(i + _TILE, count)) for i in range(0, count, _TILE)]


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the means of 1, x and x x^T over rows (N, D), with weights."""
  width = x.shape[1]
  total, first = np.zeros(()), np.zeros(width)
  second = np.zeros((width, width))
  for where in _tiles(len(x)):
    part = x[where].astype(np.float64)
    weights = _weights(part)
    total += weights.sum()
    first += weights @ part
    part *= np.sqrt(weights)[:, None]
    second += part.T @ part
  return total / len(x), first / len(x), second / len(x)


def _mean_rest(a: np.ndarray, b: np.ndarray, bound: float) -> float:
  """Returns the mean over pairs of all terms of the kernel beyond s^2.

  `bound` is the largest |s|; a set and itself take half of the pairs.
  """
  kind: Any = np.float32 if bound <= _SMALL else np.float64
  degree = 4
  while bound**degree / math.factorial(degree) > _LEAST * max(1, bound**3):
    degree += 1
  total = 0.0
  for rows in _tiles(len(a)):
    logging.log_every_n_seconds(
      logging.INFO, 'CMMD: %d of %d rows', _SECONDS, rows.start, len(a)
    )
    weights = _weights(a[rows])
    left = a[rows].astype(kind)
    left /= SIGMA**2
    for columns in _tiles(len(b)):
      if a is b and columns.start < rows.start:
        continue
      s = left @ b[columns].astype(kind).T
      sums = _rest(s, degree) @ _weights(b[columns]).astype(kind)
      twice = a is b and rows != columns
      total += (1 + twice) * float(weights @ sums)
  return total / (len(a) * len(b))


def _rest(s: np.ndarray, degree: int) -> np.ndarray:
  """Returns the sum of s^n / n! from n = 3 to the degree."""
  out = np.full_like(s, 1 / math.factorial(degree))
  for n in range(degree - 1, 2, -1):
    out *= s
    out += s.dtype.type(1 / math.factorial(n))
  out *= s
  out *= s
  out *= s
  return out
