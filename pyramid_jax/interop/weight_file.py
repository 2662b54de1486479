"""One reader for weight files: the content decides, not the name."""

import collections
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
import re

import numpy as np

from pyramid_jax import limits
from pyramid_jax.files import arrays
from pyramid_jax.files import bounded
from pyramid_jax.files import copies
from pyramid_jax.files import json_text
from pyramid_jax.files import stores
from pyramid_jax.files import zips
from pyramid_jax.interop import persistent_file
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import torch_file


FORMATS = (
  'PyTorch (zip or legacy), safetensors (or its index), npz, pickles of EDM'
)

State = Mapping[str, np.ndarray]


def read(path: str | os.PathLike[str]) -> State:
  """Returns name -> array of a PyTorch, safetensors or npz file, or of EDM's.

  Tensors of safetensors files, also of several by their index, are read on
  access. No code of a file is run; sizes are checked before memory is taken.

  Raises:
    ValueError: an unknown format, damage, or anything but weights.
    OSError: the file cannot be opened.
  """
  path = stores.path(path)
  try:
    return _READERS[_format(path)](path)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def read_all(paths: Sequence[str | os.PathLike[str]]) -> State:
  """Returns the arrays of several files, see `read`; the last one wins."""
  states = [read(path) for path in reversed(paths)]
  if len(states) == 1:
    return states[0]
  return collections.ChainMap(*states)  # type: ignore[arg-type]


def metadata(state: State) -> dict[str, str]:
  """Returns the free text of what `read` found, {} of other formats."""
  return state.metadata() if isinstance(state, safetensors_file.Tensors) else {}


def _read_index(path: pathlib.Path) -> State:
  """Returns the arrays of the files that an index in their folder lists."""
  index = json_text.loads(bounded.read(path, limits.INDEX_BYTES))
  places = index.get('weight_map') if isinstance(index, dict) else None
  if not isinstance(places, dict):
    raise ValueError('an index without a weight_map')
  if len(places) > limits.TENSORS:
    raise ValueError(f'{len(places)} tensors; limit: {limits.TENSORS}')
  files: list[State] = []
  for name in sorted({str(file) for file in places.values()}):
    if not re.fullmatch(r'[^/\\]+\.safetensors', name):
      raise ValueError(
        f'{name[:200]!r} is no safetensors file beside the index'
      )
    file = path.with_name(name)
    try:
      found = safetensors_file.Tensors(file)
    except ValueError as error:
      raise ValueError(f'{name}: {error}') from error
    here = {key for key, place in places.items() if place == name}
    if found.keys() != here:
      odd = sorted(found.keys() ^ here)
      raise ValueError(
        f'{name} and the index disagree in {len(odd)} keys, the first is'
        f' {odd[0][:200]!r}'
      )
    files.append(found)
  return collections.ChainMap(*files)  # type: ignore[arg-type]


_READERS: Mapping[str, Callable[[pathlib.Path], State]] = {
  'torch': torch_file.read,
  'persistent': persistent_file.read,
  'safetensors': safetensors_file.Tensors,
  'index': _read_index,
  'npz': arrays.load,
}


def _format(path: pathlib.Path) -> str:
  path = copies.local(path)
  bounded.check(path, limits.FILE_BYTES)
  with open(path, 'rb') as file:
    start, names = file.read(64), []
    if start.startswith(zips.START):
      archive = zips.opened(
        *(file, limits.TORCH_MEMBERS),
        *(limits.INFLATED_BYTES, limits.INFLATED_RATIO),
      )
      names = archive.namelist()
  if start.startswith(torch_file.LEGACY_START):
    return 'torch'
  # A header's length ends in zeros, a text has none.
  if start[:1] == b'{' and start[7:8] != b'\0':
    return 'index'
  if start[8:9] == b'{':
    return 'safetensors'
  if start.startswith(persistent_file.STARTS):
    return 'persistent'
  if any(name.endswith('/data.pkl') for name in names):
    return 'torch'
  if names and all(name.endswith('.npy') for name in names):
    return 'npz'
  raise ValueError(f'not a weight file; formats read: {FORMATS}')
