"""Whether images are digits: what a classifier reads, and how new they are."""

import dataclasses
import functools
from typing import Any

import numpy as np

from pyramid_jax.data.digits import files
from pyramid_jax.data.digits import reader
from pyramid_jax.data.pixels import transforms
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import states


_ACC, _NEAREST = 'digit_acc', 'nearest_train'
# Of the classifier: of C in 1..100 and gamma in 0.005..0.05, the pair with the
# best accuracy on the images that are held out.
_C, _GAMMA = 10.0, 0.02


@functools.lru_cache(maxsize=2)
def real(root: str, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the training images (N, size * size) in [0, 1], and their digits.

  They are cut as images of the validation are.
  """
  digits, numbers = files.load(root, 'train')
  cut = transforms.Transform(
    size=size,
    crop='center',
    flip=False,
    resize=transforms.RESIZES['bicubic'],
  )
  images = [cut(image, np.uint64(0))[0] for image in reader.padded(digits)]
  return flat(np.stack(images)), numbers


def flat(images: np.ndarray) -> np.ndarray:
  """Returns images (N, H, W, 3) uint8 as (N, H * W) grey values in [0, 1]."""
  grey = images.astype(np.float32).mean(-1) / 255
  return grey.reshape(len(images), -1)


@functools.lru_cache(maxsize=2)
def classifier(root: str, size: int) -> Any:
  """Returns a support vector machine that has learned the training images.

  Raises:
    ImportError: scikit-learn is not installed (the extra `examples`).
  """
  from sklearn import svm

  return svm.SVC(C=_C, gamma=_GAMMA).fit(*real(root, size))


def nearest(images: np.ndarray, train: np.ndarray) -> np.ndarray:
  """Returns the distance (N,) of images (N, D) to the nearest of (M, D).

  It is the root of the mean squared difference of the values.
  """
  squares = np.square(train).sum(1) - 2 * images @ train.T
  least = squares.min(1) + np.square(images).sum(1)
  return np.sqrt(np.maximum(least, 0) / images.shape[1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recognition:
  """The scores of digits made for a class or for none, a `states.Measure`.

  `digit_acc` (class): the share of images that a classifier reads as their
  digit. `nearest_train`: the mean distance to the nearest training image; where
  it is below that of real images that were not trained on, images are
  remembered. The ceiling of both is the score of real images that are held out,
  the floor of `digit_acc` that of real images with the digits of others.
  """

  task: str
  root: str  # See `files.load`.
  size: int  # of images, px
  bounds: bool = True  # whether there are ceilings and floors

  def of_images(self, batch: states.Batch) -> states.Columns:
    return self._columns(batch.images, batch.examples)

  def of_real(self, batch: states.Batch) -> states.Columns:
    if not self.bounds or batch.real is None:
      return {}
    found = states.named(
      states.CEILING, self._columns(batch.real, batch.conditions)
    )
    if batch.others is not None:
      floor = self._recognised(flat(batch.real), batch.others)
      found |= states.named(states.FLOOR, floor)
    return found

  def needs_others(self, examples: states.Columns) -> bool:
    del examples
    return self.bounds and self.task == 'class'

  def rows(
    self, images: states.Columns, real: states.Columns
  ) -> list[bootstrap.Row]:
    return states.rows(
      bootstrap.ratios(images),
      bootstrap.ratios(states.part(states.CEILING, real)),
      bootstrap.ratios(states.part(states.FLOOR, real)),
    )

  def _columns(
    self, images: np.ndarray, examples: states.Columns
  ) -> states.Columns:
    values = flat(images)
    distance = nearest(values, real(self.root, self.size)[0])
    columns = {_NEAREST: bootstrap.mean_pairs(distance)}
    return {**self._recognised(values, examples), **columns}

  def _recognised(
    self, values: np.ndarray, examples: states.Columns
  ) -> states.Columns:
    if self.task != 'class':
      return {}
    read = classifier(self.root, self.size).predict(values)
    is_right = read + 1 == examples['class']
    return {_ACC: bootstrap.mean_pairs(is_right)}
