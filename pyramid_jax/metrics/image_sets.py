"""Which images a set has, whatever their order and how they were divided."""

from collections.abc import Sequence
import dataclasses
import hashlib

import numpy as np


_BITS = 256


@dataclasses.dataclass(frozen=True)
class Contents:
  """The sum of the SHA-256 of all images of a set, modulo 2^256.

  Equal sets have equal sums on any devices and in batches of any size. It tells
  sets apart that differ by accident, not by intent.
  """

  total: int = 0

  @classmethod
  def of_images(cls, images: np.ndarray) -> 'Contents':
    """Returns that of (N, H, W, 3) uint8, whose shape is hashed too."""
    total = sum(_hash(image) for image in images)
    return cls(total % 2**_BITS)

  @classmethod
  def of_words(cls, words: Sequence[int] | np.ndarray) -> 'Contents':
    """Returns that of `words`."""
    return cls(sum(int(word) << 64 * i for i, word in enumerate(words)))

  def merge(self, other: 'Contents') -> 'Contents':
    """Returns that of the images of both."""
    return Contents((self.total + other.total) % 2**_BITS)

  @property
  def words(self) -> np.ndarray:
    """(4,) uint64, the lowest first."""
    shifts = range(0, _BITS, 64)
    words = [self.total >> shift & (2**64 - 1) for shift in shifts]
    return np.array(words, np.uint64)

  @property
  def digest(self) -> str:
    """The first 16 hexadecimal digits."""
    return f'{self.total:064x}'[:16]


def _hash(image: np.ndarray) -> int:
  found = hashlib.sha256(repr(image.shape).encode())
  found.update(np.ascontiguousarray(image).data)
  return int.from_bytes(found.digest(), 'big')
