"""How much images of one condition differ: the mean LPIPS of their pairs."""

import dataclasses

import numpy as np

from pyramid_jax.evaluation import perceptual
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import states


# Published values are by AlexNet (ZejianLi/LAMA: compute_dists_dirs.py, two
# images of a layout); these are by VGG16, all pairs.
SCORE = 'diversity_vgg'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diversity(states.Means):
  """The mean over conditions of the mean over pairs, as a `states.Measure`."""

  distance: perceptual.Distance

  def of_images(self, batch: states.Batch) -> states.Columns:
    """Returns pairs; images that have no others of their condition count not.

    The value of a condition is that of the image that stands for it in
    `Batch.alike`.
    """
    values = np.full(len(batch.images), np.nan)
    left, right, rows = [], [], []
    for row, images in batch.alike:
      first, second = np.triu_indices(len(images), 1)
      left.append(images[first])
      right.append(images[second])
      rows += [row] * len(first)
    if rows:
      found = self.distance(np.concatenate(left), np.concatenate(right))
      sums = np.bincount(rows, found, minlength=len(values))
      with np.errstate(invalid='ignore'):  # NaN where there is no pair
        values = sums / np.bincount(rows, minlength=len(values))
    return {SCORE: bootstrap.mean_pairs(values)}
