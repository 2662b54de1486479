"""The order of a run's examples.

The position is one integer that any number of processes understands, and what
is drawn for an example is a function of it.
"""

from typing import Any
from typing import Protocol

import numpy as np

from pyramid_jax.conditioning import hashing


Arrays = dict[str, Any]
_STREAM = 100  # word of the hash that makes the draws of examples
_ROUNDS = 6


class Source(Protocol):
  """What `Batches` needs of a reader."""

  def __len__(self) -> int:
    """Returns the number of examples."""

  def batch(self, indices: np.ndarray, draws: np.ndarray) -> Arrays:
    """Returns stacked host arrays of examples, (B, ...) each."""


def permute(index: np.ndarray, length: int, seed: int, epoch) -> np.ndarray:
  """Maps positions (...) to examples by a bijection of [0, length).

  A Feistel network with two halves of ceil(log4(length)) bits, keyed by
  (seed, epoch); values outside of the range go around again ('cycle walking').
  Random access and O(1) memory: the order needs no state. `length` is at most
  2**62; every epoch, an integer or (...), has its own order.

  Raises:
    ValueError: an index is out of range.
  """
  index = np.asarray(index, np.int64)
  if index.size and not 0 <= index.min() <= index.max() < length:
    raise ValueError(
      f'positions must be in [0, {length}), got {index.min()}..{index.max()}.'
    )
  bits = np.uint64(((length - 1).bit_length() + 1) // 2)
  mask = (np.uint64(1) << bits) - np.uint64(1)
  key = np.broadcast_to(hashing.hash64(seed, epoch), index.shape).ravel()
  # Hashes of all words but the last, which alone differs from lap to lap.
  keys = hashing.hash64(key, np.arange(_ROUNDS)[:, None])
  value = index.astype(np.uint64).ravel()
  todo = np.arange(value.size)
  while todo.size:
    left, right = value[todo] >> bits, value[todo] & mask
    for begun in keys[:, todo]:
      mixed = hashing.extended(begun, right) & mask
      left, right = right, left ^ mixed
    value[todo] = (left << bits) | right
    todo = todo[value[todo] >= length]
  return value.astype(np.int64).reshape(index.shape)


class Batches:
  """An endless sequence of batches; its only state is a step.

  Example number n of a run (`step * batch_size + row`) is the reader's example
  `permute(n mod N, key=(seed, n div N))`, with the draw `hash(seed, n)`. So the
  global batch of a step is the same for any number of processes, and a resumed
  run repeats and misses nothing.
  """

  def __init__(
    self,
    reader: Source,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    rows: np.ndarray | None = None,
  ):
    """Fixes the order.

    Args:
      reader: the source of the examples.
      batch_size: the number of examples of the global batch of a step.
      seed: that of the order and of the draws.
      shuffle: False for the reader's order.
      rows: (R,) rising, the rows of the global batch that `at` returns: those
        that the devices of a process hold, `mesh.local_rows`; None for all.

    Raises:
      ValueError: an empty reader, an empty batch, or rows that it lacks.
    """
    if len(reader) < 1:
      raise ValueError('the reader has no examples.')
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}, must be at least 1.')
    rows = np.arange(batch_size) if rows is None else np.asarray(rows)
    is_rising = rows.size > 0 and (np.diff(rows) > 0).all()
    if not is_rising or rows[0] < 0 or rows[-1] >= batch_size:
      raise ValueError(
        f'rows are {rows.tolist()}, must rise and be in [0, {batch_size}).'
      )
    self.reader = reader
    self.batch_size = batch_size
    self.seed = seed
    self.shuffle = shuffle
    self._rows = rows

  def positions(self, step: int) -> np.ndarray:
    """Returns the numbers (R,) in the run of the examples of `rows`.

    Raises:
      ValueError: a negative step.
    """
    if step < 0:
      raise ValueError(f'step is {step}, must be at least 0.')
    return step * self.batch_size + self._rows

  def order(self, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (indices int64, draws uint64), (R,) each, of a step >= 0."""
    return self._order(self.positions(step))

  def _order(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = len(self.reader)
    epoch, index = np.divmod(position, length)
    if self.shuffle:
      index = permute(index, length, self.seed, epoch)
    return index, hashing.hash64(self.seed, _STREAM, position)

  def at(self, step: int) -> Arrays:
    """Returns the `rows` of the global batch of a step >= 0."""
    return self.reader.batch(*self.order(step))

  def rows(self, numbers: np.ndarray) -> Arrays:
    """Returns the examples (B, ...) that have these numbers (B,) in the run."""
    return self.reader.batch(*self._order(numbers))
