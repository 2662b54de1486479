"""The inception score: are images clear, and of many kinds?

exp of the mean KL divergence of each image's class probabilities to those of
all images (arXiv:1606.03498). It depends on the order of the images, for it is
a mean over splits, and says little about other sets than ImageNet.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np
from scipy import special

from pyramid_jax.metrics import bootstrap


SPLIT_SIZE = 5000  # images, as in openai/guided-diffusion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
  """Sums over images of one split, float64."""

  count: int  # images
  probabilities: np.ndarray  # (K,) sum of the class probabilities
  negentropy: float  # sum of p log p

  def merge(self, other: 'Split') -> 'Split':
    """Returns the sums over the images of both."""
    return Split(
      count=self.count + other.count,
      probabilities=self.probabilities + other.probabilities,
      negentropy=self.negentropy + other.negentropy,
    )

  @property
  def score(self) -> float:
    """exp of the mean divergence from the mean probabilities."""
    mean = self.probabilities / self.count
    divergence = self.negentropy / self.count - special.xlogy(mean, mean).sum()
    return float(np.exp(divergence))


Splits = Mapping[int, Split]  # by number


def split_sums(
  logits: np.ndarray, places: np.ndarray, split_size: int = SPLIT_SIZE
) -> Splits:
  """Returns the sums of some images, to be merged with those of others.

  `logits` (N, K) are those of images at `places` (N,) of the whole order, from
  0.

  Raises:
    ValueError: no images, or an empty split.
  """
  if split_size < 1 or logits.ndim != 2 or not len(logits):
    raise ValueError(
      f'logits must be (N, K) with N > 0 and split_size > 0, got '
      f'{logits.shape} and {split_size}.'
    )
  log_p = special.log_softmax(np.asarray(logits, np.float64), axis=1)
  p = np.exp(log_p)
  numbers = places // split_size
  return {
    int(number): Split(
      count=int((numbers == number).sum()),
      probabilities=p[numbers == number].sum(0),
      negentropy=float((p * log_p)[numbers == number].sum()),
    )
    for number in np.unique(numbers)
  }


def merge_splits(a: Splits, b: Splits) -> Splits:
  """Returns the sums over the images of both."""
  both = {n: a[n].merge(b[n]) for n in a.keys() & b.keys()}
  return {**a, **b, **both}


def over_splits(splits: Splits) -> bootstrap.Score:
  """Returns the mean over splits; two of them or more tell its interval."""
  values = np.array([split.score for split in splits.values()])
  n = sum(split.count for split in splits.values())
  if len(values) < 2:
    return bootstrap.without_interval(values.mean(), n)
  error = values.std(ddof=1) / np.sqrt(len(values))
  reach = float(special.ndtri((1 + bootstrap.COVERAGE) / 2) * error)
  mean = float(values.mean())
  return bootstrap.Score(mean, mean - reach, mean + reach, n)
