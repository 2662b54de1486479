"""Reads the arrays of a pickle, and runs nothing of it.

NVlabs/edm2: calculate_metrics.py pickles statistics as {'fid': {'mu', 'sigma'},
'fd_dinov2': ...}, arrays of NumPy in dictionaries.
"""

from collections.abc import Iterator
import math
import os
from typing import Any

import numpy as np

from pyramid_jax import limits
from pyramid_jax.files import bounded
from pyramid_jax.files import copies
from pyramid_jax.interop import unpickler


_TYPES = ('f2', 'f4', 'f8', 'i4', 'i8', 'u1')
_DEPTH = 4  # of dictionaries in each other


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Returns the arrays by their names, those of inner dictionaries as 'A/B'.

  Entries of other kinds are left out.

  Raises:
    ValueError: damage, or what is neither an array of numbers nor plain data.
    OSError: the file cannot be opened.
  """
  path = copies.local(path)
  bounded.check(path, limits.FILE_BYTES)
  budget = unpickler.Budget(os.stat(path).st_size + limits.PICKLE_BYTES)
  with open(path, 'rb') as file:
    loaded = unpickler.load(file, _ALLOWED, _nothing, _unknown, budget)
  if not isinstance(loaded, dict):
    raise ValueError('a pickle that is no dictionary')
  return dict(_arrays(loaded, ''))


def _arrays(
  loaded: dict[Any, Any], prefix: str
) -> Iterator[tuple[str, np.ndarray]]:
  for name, value in loaded.items():
    if not isinstance(name, str):
      continue
    if isinstance(value, dict) and prefix.count('/') < _DEPTH:
      yield from _arrays(value, f'{prefix}{name}/')
    elif isinstance(value, unpickler.Object) and value.name == 'array':
      yield f'{prefix}{name}', _array(value.state, f'{prefix}{name}')


def _array(state: Any, name: str) -> np.ndarray:
  """Returns the array that NumPy pickles as this state."""
  damaged = ValueError(f'damaged pickle: {name} is no array of numbers')
  if not isinstance(state, tuple) or len(state) != 5:
    raise damaged
  _, shape, kind, is_fortran, data = state
  if not (
    isinstance(shape, tuple)
    and len(shape) <= limits.ARRAY_DIMENSIONS
    and all(type(side) is int and side >= 0 for side in shape)
    and isinstance(kind, unpickler.Object)
    and kind.name in _TYPES
    and isinstance(kind.state, tuple)
    and len(kind.state) > 1
    and kind.state[1] in ('<', '|')
    and isinstance(data, bytes)
  ):
    raise damaged
  dtype = np.dtype(kind.name).newbyteorder('<')
  if math.prod(shape) * dtype.itemsize != len(data):
    raise damaged
  flat = np.frombuffer(data, dtype)
  return flat.reshape(shape, order='F' if is_fortran else 'C')


def _kind(name: Any, *_: Any) -> unpickler.Object:
  if not isinstance(name, str) or name not in _TYPES:
    raise ValueError(f'an array of type {str(name)[:100]!r}')
  return unpickler.Object(name)


def _nothing(identifier: Any) -> Any:
  del identifier
  raise ValueError('damaged pickle: it refers to something outside of it')


def _unknown(name: str) -> unpickler.Global:
  raise ValueError(f'the name {name!r}, which is not allowed in statistics')


def _plain(*_: Any) -> unpickler.Inert:
  return unpickler.Inert()


_ALLOWED = {
  name: unpickler.Global(name, make)
  for name, make in {
    'numpy.core.multiarray._reconstruct': lambda *_: unpickler.Object('array'),
    'numpy._core.multiarray._reconstruct': lambda *_: unpickler.Object('array'),
    'numpy.ndarray': _plain,
    'numpy.dtype': _kind,
  }.items()
}
