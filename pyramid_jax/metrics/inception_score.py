"""The inception score: are images clear, and of many kinds?

exp of the mean KL divergence of each image's class probabilities to those of
all images (arXiv:1606.03498). It depends on the order of the images, for it is
a mean over splits, and says little about other sets than ImageNet.
"""

from collections.abc import Mapping

import numpy as np
from scipy import special

from pyramid_jax.metrics import bootstrap


SPLIT_SIZE = 5000  # images, as in openai/guided-diffusion
# Of toshas/torch-fidelity, which LDM and Frido are scored by.
FIDELITY_SPLITS, FIDELITY_SEED = 10, 2020


# Number of a split -> its images, the sum of p log p, and the sums of the class
# probabilities p (K,), float64.
Splits = Mapping[int, np.ndarray]


def split_sums(
  logits: np.ndarray, places: np.ndarray, split_size: int = SPLIT_SIZE
) -> Splits:
  """Returns the sums of some images, to be merged with those of others.

  `logits` (N, K) are those of images at `places` (N,) of the whole order, from
  0.

  Raises:
    ValueError: no images, or an empty split.
  """
  if split_size < 1:
    raise ValueError(f'split_size must be > 0, got {split_size}.')
  return sums_of(logits, places // split_size)


def shuffled_splits(count: int) -> np.ndarray:
  """Returns the numbers (count,) of the splits of shuffled images.

  The image at a place belongs to the split that torch-fidelity puts it in
  (torch_fidelity/metric_isc.py); some are empty below ten images.
  """
  order = np.random.RandomState(FIDELITY_SEED).permutation(count)
  numbers = np.arange(1, FIDELITY_SPLITS + 1) * count // FIDELITY_SPLITS
  out = np.empty(count, np.int64)
  out[order] = np.searchsorted(numbers, np.arange(count), side='right')
  return out


def sums_of(logits: np.ndarray, numbers: np.ndarray) -> Splits:
  """Returns the sums of images with logits (N, K) in splits `numbers` (N,).

  Raises:
    ValueError: no images.
  """
  if logits.ndim != 2 or not len(logits):
    raise ValueError(f'logits must be (N, K) with N > 0, got {logits.shape}.')
  log_p = special.log_softmax(np.asarray(logits, np.float64), axis=1)
  p = np.exp(log_p)
  sums = {}
  for number in np.unique(numbers):
    rows = numbers == number
    about = [rows.sum(), (p * log_p)[rows].sum()]
    sums[int(number)] = np.concatenate([about, p[rows].sum(0)])
  return sums


def merge_splits(a: Splits, b: Splits) -> Splits:
  """Returns the sums over the images of both."""
  both = {n: a[n] + b[n] for n in a.keys() & b.keys()}
  return {**a, **b, **both}


def split_scores(splits: Splits) -> np.ndarray:
  """Returns exp of the mean divergence from the mean of each split."""
  sums = np.stack([splits[number] for number in sorted(splits)])
  count, negentropy, mean = sums[:, 0], sums[:, 1], sums[:, 2:] / sums[:, :1]
  return np.exp(negentropy / count - special.xlogy(mean, mean).sum(1))


def over_splits(splits: Splits) -> bootstrap.Score:
  """Returns the mean over splits; two of them or more give its interval."""
  values = split_scores(splits)
  n = round(sum(sums[0] for sums in splits.values()))
  if len(values) < 2:
    return bootstrap.without_interval(values.mean(), n)
  error = values.std(ddof=1) / np.sqrt(len(values))
  reach = float(special.ndtri((1 + bootstrap.COVERAGE) / 2) * error)
  mean = float(values.mean())
  return bootstrap.Score(mean, mean - reach, mean + reach, n)
