"""Safetensors files, tensor by tensor, by the library of that name."""

from collections.abc import Iterator
from collections.abc import Mapping
import os

import ml_dtypes
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.files import bounded
from pyramid_jax.files import copies
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files


# Type in a file -> type of the array that is read or written.
_DTYPES = {
  **{f'F{bits}': f'float{bits}' for bits in (64, 32, 16)},
  'BF16': 'bfloat16',
  **{f'I{bits}': f'int{bits}' for bits in (64, 32, 16, 8)},
  **{f'U{bits}': f'uint{bits}' for bits in (64, 32, 16, 8)},
  'BOOL': 'bool',
}


class Tensors(Mapping[str, np.ndarray]):
  """The tensors of a file by name, each read on access; bfloat16 as float32.

  Raises:
    ValueError: damage, or an unknown dtype (named).
    OSError: the file cannot be opened.
  """

  def __init__(self, path: str | os.PathLike[str]):
    path = copies.local(path)
    _check_header(path)
    try:
      self._file = safetensors.safe_open(path, 'np')
    except safetensors.SafetensorError as error:
      raise ValueError(f'not a safetensors file: {error}') from error
    self._names = dict.fromkeys(self._file.keys())
    _check_count(len(self))  # the names of entries can be written in two ways
    for name in self:
      if len(name) > limits.TENSOR_NAME:
        raise ValueError(
          f'a name of {len(name)} characters; limit: {limits.TENSOR_NAME}'
        )
      found = self._file.get_slice(name)
      if found.get_dtype() not in _DTYPES:
        raise ValueError(
          f'{name!r} is {found.get_dtype()!r}; allowed: {", ".join(_DTYPES)}'
        )
      if len(found.get_shape()) > limits.TENSOR_DIMENSIONS:
        raise ValueError(f'{name!r} has {len(found.get_shape())} axes')

  def __contains__(self, name: object) -> bool:
    return name in self._names

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._names:
      raise KeyError(name)
    array = self._file.get_tensor(name)
    if array.dtype == ml_dtypes.bfloat16:
      return array.astype(np.float32)
    # a byte of a mask may be any number
    return array.view(np.uint8) != 0 if array.dtype == bool else array

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of a tensor, which is not read."""
    return tuple(self._file.get_slice(name).get_shape())

  def metadata(self) -> dict[str, str]:
    """Returns the free text entries of the header."""
    return self._file.metadata() or {}


def _check_header(path: str | os.PathLike[str]) -> None:
  """Raises a ValueError for a header that the library should not parse."""
  bounded.check(path, limits.FILE_BYTES)
  with open(path, 'rb') as file:
    size = int.from_bytes(file.read(8), 'little')
    if size > limits.SAFETENSORS_HEADER_BYTES:
      raise ValueError(
        f'not a safetensors file, or a header of {size} bytes; limit:'
        f' {limits.SAFETENSORS_HEADER_BYTES}'
      )
    header = file.read(size)
  _check_count(header.count(b'"data_offsets"'))


def _check_count(count: int) -> None:
  if count > limits.SAFETENSORS_TENSORS:
    raise ValueError(f'{count} tensors; limit: {limits.SAFETENSORS_TENSORS}')


def write(
  path: str | os.PathLike[str],
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes a file; it appears under its name only when it is whole.

  Raises:
    ValueError: a dtype that the format does not have.
    UserError: it cannot be written.
  """
  allowed = ', '.join(_DTYPES)
  for name, array in arrays.items():
    if array.dtype.name not in _DTYPES.values():
      raise ValueError(f'{name!r} is {array.dtype}; allowed: {allowed}')
  path = stores.path(path)
  # the library writes the memory of an array as it lies
  ordered = {k: np.asarray(v, order='C') for k, v in arrays.items()}
  errors.check_room(path, sum(x.nbytes for x in ordered.values()))
  with errors.writing(path), whole_files.private(path) as aside:
    safetensors_numpy.save_file(ordered, aside, dict(metadata or {}))
    aside.chmod(0o644)  # the library lets the owner alone read it
