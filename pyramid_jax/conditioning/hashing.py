"""Random numbers as pure functions of integers.

A value depends on its words alone (a seed, an index, a purpose, a counter), so
an example can be rebuilt alone and on any host. NumPy's generators are not
used: their distributions may change between versions.
"""

import numpy as np


_MASK = (1 << 64) - 1
# Of the splitmix64 step.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def _as_uint64(word) -> np.ndarray:
  if isinstance(word, int):
    word &= _MASK
  return np.asarray(word).astype(np.uint64, copy=False)


def mix64(x: np.ndarray) -> np.ndarray:
  """Scrambles uint64 words of any shape with the splitmix64 step."""
  with np.errstate(over='ignore'):
    return _mixed(x)


def _mixed(x: np.ndarray) -> np.ndarray:
  z = x + _GAMMA
  z = (z ^ (z >> _SHIFTS[0])) * _FACTORS[0]
  z = (z ^ (z >> _SHIFTS[1])) * _FACTORS[1]
  return np.asarray(z ^ (z >> _SHIFTS[2]))


def hash64(*words) -> np.ndarray:
  """Returns the uint64 hash of integer words, broadcast to one shape.

  Args:
    *words: Python integers (taken modulo 2**64) or integer arrays; their order
      matters.
  """
  return extended(np.asarray(0, np.uint64), *words)


def extended(value: np.ndarray, *words) -> np.ndarray:
  """Returns the hash of more words: `value` is that of those before them.

  `extended(hash64(a, b), c)` is `hash64(a, b, c)`.
  """
  with np.errstate(over='ignore'):
    for word in words:
      value = _mixed(value ^ _as_uint64(word))
  return value


def uniforms(*words) -> np.ndarray:
  """Returns float64 in [0, 1) from the upper 53 bits of `hash64(*words)`."""
  return (hash64(*words) >> np.uint64(11)) * 2.0**-53


def below(limit, *words) -> np.ndarray:
  """Returns int64 in [0, limit) from `uniforms(*words)`; limit >= 1."""
  # The product can round up to the limit itself only beyond 2**52.
  return (uniforms(*words) * limit).astype(np.int64)


def order(count: int, *words) -> np.ndarray:
  """Returns a random permutation of `arange(count)`, int64."""
  return np.argsort(hash64(*words, np.arange(count)), kind='stable')
