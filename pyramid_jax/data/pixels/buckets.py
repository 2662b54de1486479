"""Aspect ratios: images are cut to the nearest of a few shapes.

All shapes have about the same area, and sides that are multiples of a number.
A batch is of one shape, so that its images stack; which, depends on the step
alone. A bucket is the images that are cut to one shape.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from pyramid_jax.conditioning import hashing
from pyramid_jax.data import batches


Shape = tuple[int, int]  # height and width, px

_BATCHES = 108  # word of the hash that orders the batches
_STREAM = 109  # word of the hash that makes the draws of examples


def shapes(side: int, multiple: int, ratio: float) -> list[Shape]:
  """Returns the shapes of buckets, lowest first.

  They are the square of `side` px and those in which one side is the multiple
  that brings the other nearest to the area of the square; `ratio` is that of
  the longer side to the shorter one, at most.

  Raises:
    ValueError: a side that is no multiple, or a ratio below 1.
  """
  if side % multiple:
    raise ValueError(
      f'config.data.image_size is {side}, must be a multiple of'
      f' config.data.buckets = {multiple}'
    )
  if ratio < 1:
    raise ValueError(f'config.data.bucket_ratio is {ratio}, must be at least 1')
  found = set()
  for one in range(multiple, int(side * ratio) + 1, multiple):
    other = multiple * round(side * side / one / multiple)
    if other and max(one / other, other / one) <= ratio:
      found |= {(one, other), (other, one)}
  return sorted(found)


def nearest(sizes: np.ndarray, allowed: Sequence[Shape]) -> np.ndarray:
  """Returns the place (N,) of the shape with the most similar aspect ratio.

  Args:
    sizes: (N, 2) heights and widths; logarithms of the ratios are compared.
    allowed: the shapes.
  """
  ours, theirs = (
    np.log(np.asarray(x, np.float64)) @ [1, -1] for x in (sizes, allowed)
  )
  return np.abs(ours[:, None] - theirs).argmin(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buckets:
  """The images of every shape."""

  shapes: tuple[Shape, ...]  # The shapes of the buckets that are open.
  # of each, as places in the data set, ascending
  members: tuple[np.ndarray, ...]
  of: np.ndarray  # (N,) the bucket of every image

  def shape(self, index: int) -> Shape:
    """Returns the shape of an image."""
    return self.shapes[self.of[index]]


def assign(
  sizes: np.ndarray, allowed: Sequence[Shape], batch_size: int
) -> Buckets:
  """Puts images into buckets.

  The emptiest bucket is closed, and its images go to the nearest of the
  others, until each has a batch. `sizes` (N, 2) are heights and widths.

  Raises:
    ValueError: fewer images than a batch.
  """
  if len(sizes) < batch_size:
    raise ValueError(
      f'config.train.batch_size is {batch_size}, must be at most'
      f' {len(sizes)}, the number of images, with config.data.buckets'
    )
  kept = list(allowed)
  while True:
    of = nearest(sizes, kept)
    counts = np.bincount(of, minlength=len(kept))
    if counts.min() >= batch_size:
      break
    del kept[int(counts.argmin())]
  members = tuple(np.flatnonzero(of == i) for i in range(len(kept)))
  return Buckets(shapes=tuple(kept), members=members, of=of)


class BucketBatches(batches.Batches):
  """Batches of one bucket each; the only state is a step.

  In an epoch every bucket gives as many whole batches as it has, in an order
  that is shuffled over all buckets; the rest is left out, in every epoch
  another one.
  """

  def __init__(
    self,
    reader: batches.Source,
    buckets: Buckets,
    batch_size: int,
    seed: int,
    rows: np.ndarray | None = None,
  ):
    """Fixes the order; see `batches.Batches`."""
    super().__init__(reader, batch_size, seed, True, rows)
    self._buckets = buckets
    whole = [len(members) // batch_size for members in buckets.members]
    self._ends = np.cumsum(whole)

  def order(self, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (indices int64, draws uint64), (R,) each, of a step >= 0."""
    draws = hashing.hash64(self.seed, _STREAM, self.positions(step))
    count = int(self._ends[-1])
    epoch, place = divmod(step, count)
    word = hashing.hash64(self.seed, _BATCHES)
    place = int(batches.permute(np.array(place), count, int(word), epoch))
    bucket = int(np.searchsorted(self._ends, place, side='right'))
    members = self._buckets.members[bucket]
    first = place - (self._ends[bucket - 1] if bucket else 0)
    rows = first * self.batch_size + self._rows
    rows = batches.permute(rows, len(members), self.seed, epoch)
    return members[rows].astype(np.int64), draws
