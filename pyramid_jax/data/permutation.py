"""A shuffled order that is computed, not stored."""

import numpy as np

from pyramid_jax.conditioning import hashing


_ROUNDS = 6


def permute(index: np.ndarray, length: int, seed: int, epoch) -> np.ndarray:
  """Maps positions to examples by a bijection of [0, length).

  A Feistel network with two halves of ceil(log4(length)) bits, keyed by
  (seed, epoch); values outside of the range go around again ('cycle walking').
  Random access and O(1) memory: the order needs no state.

  Args:
    index: (...) integers in [0, length).
    length: number of examples, up to 2**62.
    seed: any integer.
    epoch: (...) integers, or one; every epoch has its own order.

  Returns:
    (...) int64 in [0, length).

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
  value = index.astype(np.uint64).ravel()
  todo = np.arange(value.size)
  while todo.size:
    left, right = value[todo] >> bits, value[todo] & mask
    for step in range(_ROUNDS):
      mixed = hashing.hash64(key[todo], step, right) & mask
      left, right = right, left ^ mixed
    value[todo] = (left << bits) | right
    todo = todo[value[todo] >= length]
  return value.astype(np.int64).reshape(index.shape)
