"""Reads and writes safetensors files.

Format: the header's length (8 bytes, little-endian), a JSON header
`{name: {dtype, shape, data_offsets}}`, then the tensors back to back
(huggingface/safetensors: README.md, Format).
"""

from collections.abc import Mapping
import json
import mmap
import os
import pathlib
import struct
from typing import Any

import ml_dtypes
import numpy as np


MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 16

_DTYPES = {
  'F64': np.dtype('<f8'),
  'F32': np.dtype('<f4'),
  'F16': np.dtype('<f2'),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'I64': np.dtype('<i8'),
  'I32': np.dtype('<i4'),
  'I16': np.dtype('<i2'),
  'I8': np.dtype('i1'),
  'U64': np.dtype('<u8'),
  'U32': np.dtype('<u4'),
  'U16': np.dtype('<u2'),
  'U8': np.dtype('u1'),
  'BOOL': np.dtype('?'),
}
_METADATA = '__metadata__'


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Returns name -> array: read-only views of the mapped file.

  bfloat16 becomes float32.

  Raises:
    ValueError: damage, too large a header, or an unknown dtype (named).
    OSError: the file cannot be opened.
  """
  with open(path, 'rb') as file:
    header, start = _read_header(file.fileno())
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  header.pop(_METADATA, None)
  raw = np.frombuffer(mapped, np.uint8)[start:]
  places = [_place(name, entry) for name, entry in header.items()]
  end = 0
  for name, _, _, begin, stop in sorted(places, key=lambda p: p[3:]):
    if begin != end:
      raise ValueError(
        f'tensor {name!r} begins at {begin}; the one before ends at {end}'
      )
    end = stop
  if end != raw.size:
    raise ValueError(f'the tensors end at {end}, the file at {raw.size}')
  arrays = {}
  for name, dtype, shape, begin, stop in places:
    part = raw[begin:stop]
    if dtype == np.bool_:
      part = part != 0
    array = part.view(dtype).reshape(shape)
    is_bf16 = dtype == ml_dtypes.bfloat16
    arrays[name] = array.astype(np.float32) if is_bf16 else array
  return arrays


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
  """Returns the free text entries of the header."""
  with open(path, 'rb') as file:
    header, _ = _read_header(file.fileno())
  metadata = header.get(_METADATA, {})
  if not isinstance(metadata, dict):
    raise ValueError('the metadata are no object')
  return {str(k): str(v) for k, v in metadata.items()}


def write(
  path: str | os.PathLike[str],
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes a file; it appears under its name only when it is whole.

  Raises:
    ValueError: a dtype that the format does not have.
  """
  names = {dtype: name for name, dtype in _DTYPES.items()}
  header: dict[str, Any] = {}
  if metadata:
    header[_METADATA] = dict(metadata)
  end = 0
  for name, array in arrays.items():
    if array.dtype not in names:
      raise ValueError(
        f'{name!r} is {array.dtype}; allowed: {", ".join(_DTYPES)}'
      )
    begin, end = end, end + array.nbytes
    header[name] = {
      'dtype': names[array.dtype],
      'shape': list(array.shape),
      'data_offsets': [begin, end],
    }
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  path = pathlib.Path(path)
  part = path.with_name(path.name + '.part')
  with open(part, 'wb') as file:
    file.write(struct.pack('<Q', len(text)) + text)
    for array in arrays.values():
      file.write(array.tobytes())
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, path)


def _read_header(descriptor: int) -> tuple[dict[str, Any], int]:
  """Returns the parsed header and where the tensors start."""
  total = os.fstat(descriptor).st_size
  if total < 8:
    raise ValueError(f'the file has {total} bytes, too few for a header')
  (size,) = struct.unpack('<Q', os.pread(descriptor, 8, 0))
  if size > MAX_HEADER_BYTES:
    raise ValueError(f'a header of {size} bytes; limit: {MAX_HEADER_BYTES}')
  if 8 + size > total:
    raise ValueError(f'a header of {size} bytes in a file of {total}')
  text = os.pread(descriptor, size, 8)
  try:
    header = json.loads(text.decode(), object_pairs_hook=_unique)
  except RecursionError as error:
    raise ValueError('the header is nested too deeply') from error
  if not isinstance(header, dict):
    raise ValueError('the header is no JSON object')
  if len(header) > MAX_TENSORS:
    raise ValueError(f'{len(header)} tensors; limit: {MAX_TENSORS}')
  return header, 8 + size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  result = dict(pairs)
  if len(result) != len(pairs):
    raise ValueError('the header names a tensor twice')
  return result


def _place(name: str, entry: Any) -> tuple[str, np.dtype, list[int], int, int]:
  """Checks one header entry: (name, dtype, shape, begin, end)."""
  if not isinstance(entry, dict):
    raise ValueError(f'the header entry of {name!r} is no object')
  dtype = entry.get('dtype')
  if not isinstance(dtype, str) or dtype not in _DTYPES:
    raise ValueError(
      f'{name!r} is {dtype!r:.50}; allowed: {", ".join(_DTYPES)}'
    )
  shape = _sizes(name, entry.get('shape'))
  offsets = _sizes(name, entry.get('data_offsets'))
  if len(offsets) != 2 or len(shape) > MAX_DIMENSIONS:
    raise ValueError(f'{name!r}: {len(shape)} axes, {len(offsets)} offsets')
  need = _DTYPES[dtype].itemsize
  for n in shape:
    need *= n
  if offsets[1] - offsets[0] != need:
    raise ValueError(
      f'{name!r}: shape {shape} of {dtype} needs {need} bytes, the offsets'
      f' are {offsets}'
    )
  return name, _DTYPES[dtype], shape, offsets[0], offsets[1]


def _sizes(name: str, numbers: Any) -> list[int]:
  if not isinstance(numbers, list) or any(
    type(n) is not int or not 0 <= n < 1 << 48 for n in numbers
  ):
    raise ValueError(f'{name!r}: shape or offsets are no sizes')
  return numbers
