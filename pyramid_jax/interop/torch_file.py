"""Reads the tensors of a PyTorch checkpoint without PyTorch.

Both layouts of `torch.save`: the zip archive (`data.pkl` and `data/<key>`,
since PyTorch 1.6) and the older row of pickles followed by raw storages; also
archives of TorchScript, whose modules have tensors. The pickles go through
`unpickler`, so a file can name tensors and nothing else: other objects, such as
the callbacks of a trainer, are left out.
"""

from collections.abc import Callable
from collections.abc import Iterator
import io
import itertools
import mmap
import os
import re
import struct
from typing import Any
from typing import BinaryIO

from absl import logging
import numpy as np

from pyramid_jax import limits
from pyramid_jax.files import bounded
from pyramid_jax.files import copies
from pyramid_jax.files import zips
from pyramid_jax.interop import torch_tensors
from pyramid_jax.interop import unpickler


LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# how a legacy file begins: that number, pickled
LEGACY_START = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
LEGACY_PROTOCOL = 1001
_Storage = torch_tensors.Storage
_Tensor = torch_tensors.Tensor
_Unknown = torch_tensors.Unknown
_shown = torch_tensors.shown
_SCRIPT = '__torch__.'  # how names of TorchScript's modules begin
_SCRIPT_DEPTH = 32  # of modules in each other
# Their dictionaries hold tensors, too.
_OPTIMIZERS = re.compile(r'opt(im.*)?$|.*(optimizer|scheduler|scaler)')


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Returns the tensors of a PyTorch checkpoint by name.

  A state dict is the object itself or any dictionary of it, such as the entry
  `state_dict` of Lightning. If there are several, the keys of each begin with
  its name and a dot. Arrays are read-only views of the mapped file; bfloat16
  becomes float32. Numbers among tensors are kept, other entries and objects of
  unknown classes are left out, and so are states of optimizers. Those of a
  TorchScript archive are named by the modules that have them.

  Raises:
    ValueError: damage, an unknown class that makes tensors, or no tensors.
    OSError: the file cannot be opened.
  """
  path = copies.local(path)
  bounded.check(path, limits.FILE_BYTES)
  with open(path, 'rb') as file:
    if os.fstat(file.fileno()).st_size == 0:
      raise ValueError('the file is empty')
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    raw = np.frombuffer(mapped, np.uint8)
    unknown = _Unknown()
    is_zip = mapped[:4] == zips.START
    budget = unpickler.Budget()
    loaded = (_read_zip if is_zip else legacy)(file, raw, unknown, budget)
    found = _tensors(loaded, list(unknown.names))
    most = limits.TORCH_BYTES + limits.TORCH_RATIO * raw.size
    if sum(x.bytes for x in found.values() if isinstance(x, _Tensor)) > most:
      raise ValueError(
        f'{raw.size} bytes whose tensors repeat numbers until they have more'
        f' than {most}'
      )
    return {
      name: x.numpy() if isinstance(x, _Tensor) else x
      for name, x in found.items()
    }


def _read_zip(
  file: BinaryIO,
  raw: np.ndarray,
  unknown: _Unknown,
  budget: unpickler.Budget,
) -> Any:
  archive = zips.opened(
    *(file, limits.TORCH_MEMBERS, limits.TORCH_BYTES, limits.TORCH_RATIO)
  )
  members = archive.NameToInfo
  heads = [name for name in members if name.endswith('/data.pkl')]
  if len(heads) != 1 or heads[0].count('/') != 1:
    raise ValueError('the archive has no single <name>/data.pkl')
  root = heads[0].removesuffix('data.pkl')
  is_script = root + 'constants.pkl' in members

  def member(name: str, most: int | None = None) -> np.ndarray:
    """Returns bytes, mapped where they are stored as they are."""
    info = members.get(root + name)
    if info is None:
      raise ValueError(f'the archive lacks {name}')
    if most is not None and info.file_size > most:
      raise ValueError(f'{name} is larger than {most} bytes')
    place = zips.place(file, info)
    if place is not None:
      return raw[place : place + info.file_size]
    with zips.damage():
      return np.frombuffer(archive.read(info), np.uint8)

  order = b'little'
  if root + 'byteorder' in members:
    order = member('byteorder', limits.PICKLE_NAME).tobytes()
  if order != b'little':
    raise ValueError('byte order: only little-endian files are read')
  storages: dict[str, _Storage] = {}

  def persistent(identifier: Any) -> _Storage:
    storage = torch_tensors.storage(identifier, storages)
    if storage.data is None:
      storage.fill(member(f'data/{identifier[2]}'))
    return storage

  head = io.BytesIO(member('data.pkl', limits.PICKLE_BYTES).tobytes())
  names = _script_names(unknown) if is_script else unknown
  loaded = unpickler.load(
    head, torch_tensors.ALLOWED, persistent, names, budget
  )
  return dict(_of_script(loaded, itertools.count())) if is_script else loaded


def _script_names(unknown: _Unknown) -> Callable[[str], unpickler.Global]:
  """Returns what stands for the names of a TorchScript archive.

  Those of its modules, whose code is in the archive and is not looked at, are
  objects with attributes.
  """

  def find(name: str) -> unpickler.Global:
    if not name.startswith(_SCRIPT):
      return unknown(name)
    return unpickler.Global(name, lambda *_: unpickler.Object(name))

  return find


def _of_script(
  module: Any, entries: Iterator[int], prefix: str = '', depth: int = 0
) -> Iterator[tuple[str, _Tensor]]:
  """Yields the tensors of a module and those in it, by their full names.

  `entries` counts, as in `_state_dicts`.

  Raises:
    ValueError: a file that is no module, or modules too deep in each other.
  """
  state = module.state if isinstance(module, unpickler.Object) else None
  if not isinstance(state, dict):
    raise ValueError('a TorchScript archive without a module')
  for key, value in state.items():
    if depth > _SCRIPT_DEPTH or next(entries) > limits.PICKLE_STEPS:
      raise ValueError('modules that hold each other many times')
    name = f'{prefix}{key}'
    if len(name) > limits.TENSOR_NAME:
      raise ValueError(
        f'a name of {len(name)} characters; limit: {limits.TENSOR_NAME}'
      )
    if isinstance(value, _Tensor):
      yield name, value
    elif isinstance(value, unpickler.Object):
      yield from _of_script(value, entries, f'{name}.', depth + 1)


def legacy(
  file: BinaryIO,
  raw: np.ndarray,
  unknown: _Unknown,
  budget: unpickler.Budget,
) -> Any:
  """Returns the object of a file in the older layout, with its storages filled.

  Args:
    file: at its start.
    raw: all bytes of the file.
    unknown: what stands for names that are not known.
    budget: what its pickles may cost.

  Raises:
    ValueError: damage.
  """
  storages: dict[str, _Storage] = {}

  def load() -> Any:
    persistent = lambda identifier: torch_tensors.storage(identifier, storages)
    return unpickler.load(
      file, torch_tensors.ALLOWED, persistent, unknown, budget
    )

  if load() != LEGACY_MAGIC:
    raise ValueError('not a PyTorch file: the magic number is missing')
  version = load()
  if version != LEGACY_PROTOCOL:
    raise ValueError(
      f'file protocol {_shown(version)}, needed {LEGACY_PROTOCOL}'
    )
  system = load()
  if not isinstance(system, dict) or not system.get('little_endian'):
    raise ValueError('byte order: only little-endian files are read')
  result = load()
  keys = load()
  if not isinstance(keys, list):
    raise ValueError('damaged checkpoint: no list of storages')
  for key in keys:
    if not isinstance(key, str) or key not in storages:
      raise ValueError(f'storage {_shown(key)} belongs to no tensor')
    head, storage = file.read(8), storages[key]
    if len(head) < 8:
      raise ValueError(f'the file ends before storage {key!r}')
    if struct.unpack('<q', head) != (storage.size,):
      raise ValueError(f'storage {key!r} has not its own number of elements')
    storage.fill(raw[file.tell() :])
    file.seek(storage.bytes, os.SEEK_CUR)
  return result


def _tensors(
  loaded: Any, unknown: list[str]
) -> dict[str, _Tensor | np.ndarray]:
  """Picks the tensors and the numbers out of what a checkpoint holds."""
  if not isinstance(loaded, dict):
    raise ValueError(
      f'the checkpoint holds a {type(loaded).__name__}{_named(unknown)}'
    )
  sets = dict(_state_dicts(loaded, itertools.count()))
  if not sets:
    raise ValueError(
      'the checkpoint has no tensors at its top or in its dictionaries; it has'
      f' {", ".join(_shown(x) for x in list(loaded)[:10])}{_named(unknown)}'
    )
  if unknown:
    logging.warning('left out, never imported: %s', ', '.join(unknown[:20]))
  if len(sets) > 1 or not sets.keys() <= {'', 'state_dict'}:
    logging.info(
      'tensors under %s', ', '.join(name or 'the top' for name in sets)
    )
  count = sum(map(len, sets.values()))
  if count > limits.TENSORS:
    raise ValueError(f'{count} tensors; limit: {limits.TENSORS}')
  return {
    f'{name}.{key}' if name and len(sets) > 1 else key: value
    for name, tensors in sets.items()
    for key, value in _values(tensors).items()
  }


def _named(unknown: list[str]) -> str:
  """Returns the first unknown name, which may be that of the whole model."""
  if not unknown:
    return ''
  return (
    f'; global {unknown[0]!r} is not allowed in a weight file: save a'
    ' state_dict'
  )


def _state_dicts(
  loaded: dict[Any, Any],
  entries: Iterator[int],
  name: str = '',
  depth: int = 0,
) -> Iterator[tuple[str, dict[Any, Any]]]:
  """Yields the dictionaries that hold tensors, after the names of their keys.

  `entries` counts: dictionaries that are in each other many times are looked at
  many times.
  """
  inner = []
  has_tensors = False
  for key, value in loaded.items():
    if next(entries) > limits.PICKLE_STEPS:
      raise ValueError('dictionaries that hold each other many times')
    has_tensors = has_tensors or isinstance(value, _Tensor)
    if (
      isinstance(value, dict)
      and isinstance(key, str)
      and depth < limits.TORCH_DEPTH
    ):
      inner.append((key, value))
  if has_tensors:
    yield name, loaded
  for key, value in inner:
    if len(key) <= limits.TENSOR_NAME and not _OPTIMIZERS.match(key):
      path = f'{name}.{key}' if name else key
      yield from _state_dicts(value, entries, path, depth + 1)


def _values(tensors: dict[Any, Any]) -> dict[str, _Tensor | np.ndarray]:
  """Returns the tensors and the numbers of a dictionary."""
  state: dict[str, _Tensor | np.ndarray] = {}
  skipped = []
  for key, value in tensors.items():
    if isinstance(value, _Tensor):
      _check_name(key)
      state[str(key)] = value
    elif isinstance(value, int | float) and np.asarray(value).dtype != object:
      _check_name(key)
      state[str(key)] = np.asarray(value)
    elif not isinstance(value, dict):
      skipped.append(_shown(key))
  if skipped:
    logging.info('Not tensors, left out: %s', ', '.join(skipped[:20]))
  return state


def _check_name(key: Any) -> None:
  if isinstance(key, str) and len(key) > limits.TENSOR_NAME:
    raise ValueError(
      f'a name of {len(key)} characters; limit: {limits.TENSOR_NAME}'
    )
