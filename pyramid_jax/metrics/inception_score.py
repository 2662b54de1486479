"""The inception score: are pictures clear, and of many kinds?

exp of the mean KL divergence of each picture's class probabilities to those of
all pictures (arXiv:1606.03498). It depends on the order of the pictures, for
it is a mean over splits, and says little about other sets than ImageNet.
"""

import numpy as np
from scipy import special


SPLIT_SIZE = 5000  # pictures, as in openai/guided-diffusion


def split_scores(
  logits: np.ndarray, split_size: int = SPLIT_SIZE
) -> np.ndarray:
  """Returns the score of each split.

  Args:
    logits: (N, K) of the classifier, in the order of the pictures.
    split_size: pictures of a split; the last one has what is left.

  Returns:
    (ceil(N / split_size),) float64.

  Raises:
    ValueError: no pictures, or no split.
  """
  if split_size < 1 or logits.ndim != 2 or not len(logits):
    raise ValueError(
      f'logits must be (N, K) with N > 0 and split_size > 0, got '
      f'{logits.shape} and {split_size}.'
    )
  log_p = special.log_softmax(np.asarray(logits, np.float64), axis=1)
  scores = []
  for start in range(0, len(log_p), split_size):
    part = log_p[start : start + split_size]
    log_mean = special.logsumexp(part, axis=0) - np.log(len(part))
    divergence = (np.exp(part) * (part - log_mean)).sum(1)
    scores.append(np.exp(divergence.mean()))
  return np.array(scores)


def inception_score(
  logits: np.ndarray, split_size: int = SPLIT_SIZE
) -> tuple[float, float]:
  """Returns the mean and the standard deviation over splits.

  Args:
    logits: as for `split_scores`.
    split_size: as for `split_scores`.

  Raises:
    ValueError: as `split_scores`.
  """
  scores = split_scores(logits, split_size)
  return float(scores.mean()), float(scores.std())
