"""Reads the tensors of a PyTorch checkpoint without PyTorch.

Both layouts of `torch.save`: the zip archive (`data.pkl` and `data/<key>`,
since PyTorch 1.6) and the older row of pickles followed by raw storages. The
pickles go through `unpickler`, so a file can name tensors and nothing else:
other objects, such as the callbacks of a trainer, are left out.
"""

from collections.abc import Callable
import dataclasses
import io
import lzma
import math
import mmap
import os
import re
import reprlib
import struct
from typing import Any
from typing import BinaryIO
import zipfile
import zlib

from absl import logging
import ml_dtypes
import numpy as np

from pyramid_jax.interop import unpickler


# what the standard library raises on damaged archives
DAMAGE = (
  zipfile.BadZipFile,
  zlib.error,
  lzma.LZMAError,
  EOFError,
  NotImplementedError,
  RuntimeError,
)
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# how a legacy file begins: that number, pickled
LEGACY_START = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
LEGACY_PROTOCOL = 1001
MAX_UNPACKED_BYTES = 8 << 30
MAX_TENSORS = 100_000
MAX_DEPTH = 4  # of dictionaries that are looked at
# Of unknown classes.
MAX_NAMES, MAX_NAME = 100, 200
# Their dictionaries hold tensors, too.
_OPTIMIZERS = re.compile(r'opt(im.*)?$|.*(optimizer|scheduler|scaler)')
MAX_DIMENSIONS = 16
# a tensor may repeat its storage by zero strides (`expand`) up to this size
MAX_REPEATED_ELEMENTS = 1 << 22

_STORAGES = {
  f'torch.{name}Storage': np.dtype(kind)
  for name, kind in {
    'Float': '<f4',
    'Half': '<f2',
    'BFloat16': ml_dtypes.bfloat16,
    'Double': '<f8',
    'Long': '<i8',
    'Int': '<i4',
    'Short': '<i2',
    'Char': 'i1',
    'Byte': 'u1',
    'Bool': 'u1',
  }.items()
}

# Objects that training frameworks leave in checkpoints, {module: names}. They
# are never imported or run: a placeholder takes their place.
_TYPES = 'bool bytes dict float int list set str tuple'
_INERT = {
  'builtins': _TYPES,
  '__builtin__': f'{_TYPES} long unicode',
  '_codecs': 'encode',
  'argparse': 'Namespace',
  'collections': 'defaultdict',
  'numpy': 'dtype ndarray',
  'numpy.core.multiarray': '_reconstruct scalar',
  'numpy._core.multiarray': '_reconstruct scalar',
  'omegaconf.base': 'ContainerMetadata Metadata',
  'omegaconf.dictconfig': 'DictConfig',
  'omegaconf.listconfig': 'ListConfig',
  'omegaconf.nodes': 'AnyNode BooleanNode FloatNode IntegerNode StringNode',
  'pytorch_lightning.callbacks.early_stopping': 'EarlyStopping',
  'pytorch_lightning.callbacks.lr_monitor': 'LearningRateMonitor',
  'pytorch_lightning.callbacks.model_checkpoint': 'ModelCheckpoint',
  'pytorch_lightning.utilities.parsing': 'AttributeDict',
  'lightning_fabric.utilities.data': 'AttributeDict',
  'torch': 'Size bfloat16 device float16 float32 float64 int64',
  'typing': 'Any',
}


@dataclasses.dataclass(eq=False)
class _Storage:
  """A flat buffer; `data` comes later in the legacy layout."""

  name: str
  dtype: np.dtype
  size: int
  data: np.ndarray | None = None

  def fill(self, raw: np.ndarray) -> None:
    """Takes the bytes of the buffer, at least as many as it needs."""
    need = self.size * self.dtype.itemsize
    if raw.size < need:
      raise ValueError(
        f'storage {self.name!r} has {raw.size} bytes, needs {need}'
      )
    self.data = raw[:need].view(self.dtype)


@dataclasses.dataclass(eq=False)
class _Tensor:
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def numpy(self) -> np.ndarray:
    """Returns a read-only view (bfloat16: a float32 copy)."""
    data = self.storage.data
    if data is None:
      raise ValueError(f'storage {self.storage.name!r} is not in the file')
    view = np.lib.stride_tricks.as_strided(
      data[self.offset :] if 0 not in self.shape else data[:0],
      self.shape,
      [s * data.itemsize for s in self.strides],
      writeable=False,
    )
    if self.storage.dtype == ml_dtypes.bfloat16:
      return view.astype(np.float32)
    return view != 0 if self.storage.name.endswith(' Bool') else view


class _Unknown:
  """The names of a file that are not known; they are never imported."""

  def __init__(self) -> None:
    self.names: dict[str, None] = {}

  def __call__(self, name: str) -> unpickler.Global:
    """Returns what stands for a name: it makes objects that do nothing."""
    if len(self.names) < MAX_NAMES:
      self.names[name[:MAX_NAME]] = None

    def make(*args: Any) -> unpickler.Inert:
      parts = [y for x in args for y in (x if isinstance(x, tuple) else (x,))]
      if any(isinstance(part, _Tensor | _Storage) for part in parts):
        raise ValueError(
          f'global {name[:MAX_NAME]!r} makes a tensor, which is not allowed in'
          ' a weight file'
        )
      return unpickler.Inert()

    return unpickler.Global(name, make)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Returns the tensors of a PyTorch checkpoint by name.

  A state dict is the object itself or any dictionary of it, such as the entry
  `state_dict` of Lightning. If there are several, the keys of each begin with
  its name and a dot. Arrays are read-only views of the mapped file; bfloat16
  becomes float32. Numbers among tensors are kept, other entries and objects of
  unknown classes are left out, and so are states of optimizers.

  Raises:
    ValueError: damage, an unknown class that makes tensors, or no tensors.
    OSError: the file cannot be opened.
  """
  with open(path, 'rb') as file:
    if os.fstat(file.fileno()).st_size == 0:
      raise ValueError('the file is empty')
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    raw = np.frombuffer(mapped, np.uint8)
    is_zip = mapped[:4] == b'PK\x03\x04'
    unknown = _Unknown()
    try:
      loaded = (_read_zip if is_zip else _legacy)(file, raw, unknown)
      return _tensors(loaded, list(unknown.names))
    except DAMAGE as error:
      raise ValueError(f'damaged checkpoint: {error}') from error


def _read_zip(file: BinaryIO, raw: np.ndarray, unknown: _Unknown) -> Any:
  with zipfile.ZipFile(file) as archive:
    members = {info.filename: info for info in archive.infolist()}
    heads = [name for name in members if name.endswith('/data.pkl')]
    if len(heads) != 1 or heads[0].count('/') != 1:
      raise ValueError('the archive has no single <name>/data.pkl')
    root = heads[0].removesuffix('data.pkl')
    if root + 'constants.pkl' in members:
      raise ValueError('a TorchScript archive: save its state_dict instead')
    order = members.get(root + 'byteorder')
    if order and _member(archive, raw, order).tobytes() != b'little':
      raise ValueError('byte order: only little-endian files are read')
    if members[heads[0]].file_size > unpickler.MAX_PICKLE_BYTES:
      raise ValueError(
        f'data.pkl is larger than {unpickler.MAX_PICKLE_BYTES} bytes'
      )
    packed = [m for m in members.values() if m.compress_type]
    if sum(m.file_size for m in packed) > MAX_UNPACKED_BYTES:
      raise ValueError(f'unpacks to more than {MAX_UNPACKED_BYTES} bytes')
    storages: dict[str, _Storage] = {}

    def persistent(identifier: Any) -> _Storage:
      storage = _storage(identifier, storages)
      if storage.data is None:
        info = members.get(f'{root}data/{identifier[2]}')
        if info is None:
          raise ValueError(f'the archive lacks data/{identifier[2]}')
        storage.fill(_member(archive, raw, info))
      return storage

    head = _member(archive, raw, members[heads[0]]).tobytes()
    return unpickler.load(io.BytesIO(head), _ALLOWED, persistent, unknown)


def _member(
  archive: zipfile.ZipFile, raw: np.ndarray, info: zipfile.ZipInfo
) -> np.ndarray:
  """Returns the bytes of a member, mapped where it is stored as it is."""
  if info.flag_bits & 1:
    raise ValueError(f'{info.filename!r} is encrypted')
  if info.compress_type != zipfile.ZIP_STORED:
    return np.frombuffer(archive.read(info), np.uint8)
  head = raw[info.header_offset : info.header_offset + 30].tobytes()
  if len(head) < 30 or head[:4] != b'PK\x03\x04':
    raise ValueError(f'damaged archive at {info.filename!r}')
  start = info.header_offset + 30 + sum(struct.unpack('<HH', head[26:]))
  if start + info.file_size > raw.size:
    raise ValueError(f'{info.filename!r} reaches beyond the end of the file')
  return raw[start : start + info.file_size]


def _legacy(file: BinaryIO, raw: np.ndarray, unknown: _Unknown) -> Any:
  storages: dict[str, _Storage] = {}

  def load() -> Any:
    persistent = lambda identifier: _storage(identifier, storages)
    return unpickler.load(file, _ALLOWED, persistent, unknown)

  if load() != LEGACY_MAGIC:
    raise ValueError('not a PyTorch file: the magic number is missing')
  version = load()
  if version != LEGACY_PROTOCOL:
    raise ValueError(
      f'file protocol {reprlib.repr(version)}, needed {LEGACY_PROTOCOL}'
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
      raise ValueError(f'storage {reprlib.repr(key)} belongs to no tensor')
    head, storage = file.read(8), storages[key]
    if len(head) < 8:
      raise ValueError(f'the file ends before storage {key!r}')
    if struct.unpack('<q', head) != (storage.size,):
      raise ValueError(f'storage {key!r} has not its own number of elements')
    start = file.tell()
    end = file.seek(storage.size * storage.dtype.itemsize, os.SEEK_CUR)
    storage.fill(raw[start:end])
  return result


def _storage(identifier: Any, storages: dict[str, _Storage]) -> _Storage:
  """Finds or makes the storage of a persistent identifier."""
  if (
    not isinstance(identifier, tuple)
    or len(identifier) not in (5, 6)
    or identifier[0] != 'storage'
    or not isinstance(identifier[1], unpickler.Global)
    or identifier[1].name not in _STORAGES
    or not isinstance(identifier[2], str)
    or type(identifier[4]) is not int
    or identifier[4] < 0
  ):
    raise ValueError(f'damaged checkpoint: storage {reprlib.repr(identifier)}')
  _, kind, key, _, size = identifier[:5]
  if len(identifier) == 6 and identifier[5] is not None:
    raise ValueError(f'storage {key!r} is a view, which is not supported')
  name = f'{key} {kind.name.removeprefix("torch.").removesuffix("Storage")}'
  made = storages.setdefault(key, _Storage(name, _STORAGES[kind.name], size))
  if (made.name, made.size) != (name, size):
    raise ValueError(f'storage {key!r} is described in two ways')
  return made


def _tensor(
  storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> _Tensor:
  """Stands for `_rebuild_tensor_v2`; nothing may leave the storage."""
  numbers = (offset, *shape, *strides)
  if (
    not isinstance(storage, _Storage)
    or len(shape) != len(strides)
    or len(shape) > MAX_DIMENSIONS
    or any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers)
  ):
    raise ValueError(
      f'a tensor of shape {reprlib.repr(shape)}, strides'
      f' {reprlib.repr(strides)}, offset {reprlib.repr(offset)}'
    )
  count = math.prod(shape)
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  if count and last >= storage.size:
    raise ValueError(
      f'a tensor of shape {shape}, strides {strides}, offset {offset} leaves'
      f' its storage of {storage.size} elements'
    )
  if count > max(storage.size, MAX_REPEATED_ELEMENTS):
    raise ValueError(
      f'a tensor of shape {shape} repeats a storage of {storage.size}'
    )
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
  return {unpickler.checked_key(key): value for key, value in items}


def _allowed() -> dict[str, unpickler.Global]:
  makers: dict[str, Callable[..., Any]] = {
    'collections.OrderedDict': _ordered_dict,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': lambda data, *_: data,
  }
  inert = [
    f'{m}.{name}' for m, names in _INERT.items() for name in names.split()
  ]
  for name in (*inert, *_STORAGES):
    makers[name] = lambda *_: unpickler.Inert()
  return {name: unpickler.Global(name, m) for name, m in makers.items()}


_ALLOWED = _allowed()


def _tensors(loaded: Any, unknown: list[str]) -> dict[str, np.ndarray]:
  """Picks the tensors out of what a checkpoint holds."""
  if not isinstance(loaded, dict):
    raise ValueError(
      f'the checkpoint holds a {type(loaded).__name__}{_named(unknown)}'
    )
  sets = _state_dicts(loaded)
  if not sets:
    raise ValueError(
      'the checkpoint has no tensors at its top or in its dictionaries; it has'
      f' {", ".join(map(str, list(loaded)[:10]))}{_named(unknown)}'
    )
  if unknown:
    logging.warning('left out, never imported: %s', ', '.join(unknown[:20]))
  if len(sets) > 1 or not sets.keys() <= {'', 'state_dict'}:
    logging.info(
      'tensors under %s', ', '.join(name or 'the top' for name in sets)
    )
  count = sum(map(len, sets.values()))
  if count > MAX_TENSORS:
    raise ValueError(f'{count} tensors; at most {MAX_TENSORS}')
  return {
    f'{name}.{key}' if name and len(sets) > 1 else key: value
    for name, tensors in sets.items()
    for key, value in _arrays(tensors).items()
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
  loaded: dict[Any, Any], name: str = '', depth: int = 0
) -> dict[str, dict[Any, Any]]:
  """Returns the dictionaries that hold tensors, by the names of their keys."""
  found: dict[str, dict[Any, Any]] = {}
  if any(isinstance(value, _Tensor) for value in loaded.values()):
    found[name] = loaded
  for key, value in loaded.items():
    if not isinstance(value, dict) or depth == MAX_DEPTH:
      continue
    if isinstance(key, str) and not _OPTIMIZERS.match(key):
      found |= _state_dicts(value, f'{name}.{key}' if name else key, depth + 1)
  return found


def _arrays(tensors: dict[Any, Any]) -> dict[str, np.ndarray]:
  """Returns the tensors and the numbers of a dictionary."""
  state: dict[str, np.ndarray] = {}
  skipped = []
  for key, value in tensors.items():
    if isinstance(value, _Tensor):
      state[str(key)] = value.numpy()
    elif isinstance(value, int | float) and np.asarray(value).dtype != object:
      state[str(key)] = np.asarray(value)
    elif not isinstance(value, dict):
      skipped.append(str(key))
  if skipped:
    logging.info('Not tensors, left out: %s', ', '.join(skipped[:20]))
  return state
