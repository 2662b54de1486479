"""Scores with bootstrap intervals over images."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools

import numpy as np
from scipy import stats

from pyramid_jax.conditioning import hashing


RESAMPLES = 1000
COVERAGE = 0.95
_UNKNOWN = float('nan')
_STREAM = 31  # word of the hash, apart from every other use
_PRODUCT_BYTES = 2**25  # of the draws that are float64 at a time


@dataclasses.dataclass(frozen=True)
class Score:
  """A number with its bootstrap interval (95 %) over images."""

  value: float  # over all images; NaN where no image counts
  low: float
  high: float
  n: int  # images that count


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of a table of scores."""

  name: str  # The name of the score.
  score: Score  # The score of the images.
  ceiling: Score | None = None  # Real images, the same conditions.
  floor: Score | None = None  # Real images, other conditions.
  # Which images the scored ones are compared with, and their hash; '' for
  # scores of single images.
  reference: str = ''


@functools.lru_cache(maxsize=4)
def resamples(n: int, draws: int = RESAMPLES) -> np.ndarray:
  """Returns (draws, n) integers: how often each of n images is drawn.

  They have one byte each, so that those of 50,000 images take 50 MB.

  Not `scipy.stats.bootstrap`: here all scores of a table share the same draws,
  which depend on no version of a generator, and each is a matrix product.
  """
  out = np.empty((draws, n), np.uint8)
  for row in range(draws):
    picks = hashing.below(n, _STREAM, row, np.arange(n))
    times = np.bincount(picks, minlength=n)
    assert times.max() < 256  # of n draws, one image has about one
    out[row] = times
  return out


def resampled(rows: np.ndarray) -> np.ndarray:
  """Returns the sums (draws, ...) of rows (N, ...) over each resample."""
  drawn = resamples(len(rows))
  height = max(1, _PRODUCT_BYTES // (8 * len(rows)))
  starts = range(0, len(drawn), height)
  parts = [drawn[i : i + height].astype(np.float64) @ rows for i in starts]
  return np.concatenate(parts)


def _interval(values: np.ndarray) -> tuple[float, float]:
  values = values[np.isfinite(values)]
  if not len(values):
    return _UNKNOWN, _UNKNOWN
  tail = (1 - COVERAGE) / 2
  low, high = np.quantile(values, [tail, 1 - tail])
  return float(low), float(high)


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> Score:
  """Returns sum(numerators) / sum(denominators), the micro average.

  Both are (B,) per image, e.g. hits and asked objects; images whose denominator
  is 0 do not count.
  """
  denominators = np.asarray(denominators, np.float64)
  used = denominators > 0
  top = np.asarray(numerators, np.float64)[used]
  bottom = denominators[used]
  n = int(used.sum())
  if n == 0:
    return Score(_UNKNOWN, _UNKNOWN, _UNKNOWN, 0)
  low, high = _interval(resampled(top) / resampled(bottom))
  return Score(float(top.sum() / bottom.sum()), low, high, n)


def pairs(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
  """Returns (B, 2) float64, what `ratio` needs of each image."""
  return np.stack([numerators, denominators], axis=1).astype(np.float64)


def mean_pairs(values: np.ndarray) -> np.ndarray:
  """Returns the pairs (B, 2) whose ratio is the mean of (B,), NaN left out."""
  values = np.asarray(values, np.float64)
  finite = ~np.isnan(values)
  return pairs(np.where(finite, values, 0), finite)


def ratios(columns: Mapping[str, np.ndarray]) -> dict[str, Score]:
  """Returns the scores of pairs (B, 2) by name, see `ratio`."""
  return {name: ratio(*x.T) for name, x in columns.items()}


def proportion(share: float, n: int) -> Score:
  """Returns the share of n images that have a property.

  Its interval is that of infinitely many resamples.
  """
  tail = (1 - COVERAGE) / 2
  low, high = stats.binom.ppf([tail, 1 - tail], n, share) / n
  return Score(float(share), float(low), float(high), n)


def without_interval(value: float, n: int) -> Score:
  """Returns a number over n images whose spread one set does not tell."""
  return Score(float(value), _UNKNOWN, _UNKNOWN, n)


def centred(value: float, drawn: np.ndarray, n: int) -> Score:
  """Returns a score whose interval is moved to have its median at the value.

  Distances between distributions are larger on resampled images than on the
  images themselves; `drawn` (R,), values of resampled images, give the spread.
  """
  low, high = _interval(drawn - np.median(drawn) + value)
  return Score(value, low, high, n)


def statistic(
  rows: np.ndarray, function: Callable[[np.ndarray], float]
) -> Score:
  """Returns a function of the mean of per-image rows (B, K), see `centred`."""
  rows = np.asarray(rows, np.float64)
  n = len(rows)
  if n == 0:
    return Score(_UNKNOWN, _UNKNOWN, _UNKNOWN, 0)
  drawn = np.array([function(x) for x in resampled(rows) / n])
  return centred(float(function(rows.mean(0))), drawn, n)
