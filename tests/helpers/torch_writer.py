"""Writes files in PyTorch's two layouts, byte by byte, without PyTorch."""

import dataclasses
import struct
import zipfile

import ml_dtypes
import numpy as np


STORAGES = {
  np.dtype('f4'): 'FloatStorage',
  np.dtype('f2'): 'HalfStorage',
  np.dtype(ml_dtypes.bfloat16): 'BFloat16Storage',
  np.dtype('f8'): 'DoubleStorage',
  np.dtype('i8'): 'LongStorage',
  np.dtype('i4'): 'IntStorage',
  np.dtype('i2'): 'ShortStorage',
  np.dtype('i1'): 'CharStorage',
  np.dtype('u1'): 'ByteStorage',
  np.dtype('?'): 'BoolStorage',
}


@dataclasses.dataclass(frozen=True)
class Name:
  """A global: GLOBAL module name."""

  module: str
  name: str


@dataclasses.dataclass(frozen=True)
class Call:
  """function(*args), then BUILD with a state if there is one."""

  function: Name
  args: tuple
  state: object = None


class Ordered(dict):
  """Pickled as collections.OrderedDict with a `_metadata` attribute."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
  """A view of a flat storage; storages are shared by identity."""

  storage: np.ndarray
  shape: tuple
  strides: tuple
  offset: int = 0
  is_parameter: bool = False


def tensor(array, **fields):
  """Returns a contiguous tensor with a storage of its own."""
  array = np.asarray(array)
  strides = tuple(s // array.itemsize for s in array.strides)
  return Tensor(array.reshape(-1), array.shape, strides, **fields)


class Pickler:
  """Protocol 2, in the opcodes that PyTorch uses."""

  def __init__(self, is_legacy=False):
    self.is_legacy = is_legacy
    self.storages = []

  def dump(self, value):
    return b'\x80\x02' + self.encode(value) + b'.'

  def encode(self, value):
    if value is None:
      return b'N'
    if isinstance(value, bool):
      return b'\x88' if value else b'\x89'
    if isinstance(value, int):
      if -(2**31) <= value < 2**31:
        return b'J' + struct.pack('<i', value)
      raw = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
      return b'\x8a' + bytes([len(raw)]) + raw
    if isinstance(value, float):
      return b'G' + struct.pack('>d', value)
    if isinstance(value, str):
      raw = value.encode()
      return b'X' + struct.pack('<I', len(raw)) + raw
    if isinstance(value, bytes):
      return b'B' + struct.pack('<I', len(value)) + value
    if isinstance(value, np.ndarray):
      return self.storage(value)
    if isinstance(value, tuple):
      return b'(' + b''.join(map(self.encode, value)) + b't'
    if isinstance(value, list):
      return b'](' + b''.join(map(self.encode, value)) + b'e'
    if isinstance(value, Ordered):
      made = self.encode(Call(Name('collections', 'OrderedDict'), ()))
      return made + self.items(value) + self.encode({'_metadata': {}}) + b'b'
    if isinstance(value, dict):
      return b'}' + self.items(value)
    if isinstance(value, Name):
      return f'c{value.module}\n{value.name}\n'.encode()
    if isinstance(value, Call):
      code = self.encode(value.function) + self.encode(value.args) + b'R'
      if value.state is not None:
        code += self.encode(value.state) + b'b'
      return code
    return self.tensor(value)

  def items(self, value):
    pairs = [self.encode(k) + self.encode(v) for k, v in value.items()]
    return b'(' + b''.join(pairs) + b'u'

  def storage(self, array):
    places = [i for i, s in enumerate(self.storages) if s is array]
    if not places:
      self.storages.append(array)
    key = str(places[0] if places else len(self.storages) - 1)
    kind = Name('torch', STORAGES[array.dtype])
    identifier = ('storage', kind, key, 'cpu', array.size)
    if self.is_legacy:
      identifier += (None,)
    return self.encode(identifier) + b'Q'

  def tensor(self, value):
    code = (
      self.encode(Name('torch._utils', '_rebuild_tensor_v2'))
      + b'('
      + self.storage(value.storage)
      + self.encode(value.offset)
      + self.encode(value.shape)
      + self.encode(value.strides)
      + self.encode(False)
      + self.encode(Call(Name('collections', 'OrderedDict'), ()))
      + b'tR'
    )
    if not value.is_parameter:
      return code
    name = self.encode(Name('torch._utils', '_rebuild_parameter'))
    hooks = self.encode(Call(Name('collections', 'OrderedDict'), ()))
    return name + b'(' + code + self.encode(True) + hooks + b'tR'


def write_zip(path, value, compression=zipfile.ZIP_STORED, root='archive'):
  """Writes the layout of PyTorch 1.6 and later."""
  pickler = Pickler()
  head = pickler.dump(value)
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr(f'{root}/data.pkl', head)
    archive.writestr(f'{root}/byteorder', 'little')
    for i, storage in enumerate(pickler.storages):
      archive.writestr(f'{root}/data/{i}', storage.tobytes())
    archive.writestr(f'{root}/version', '3\n')


def write_checkpoint(path, state, **fields):
  """Writes a checkpoint of Lightning's with a state dict; returns its path."""
  tensors = Ordered({key: tensor(value) for key, value in state.items()})
  write_zip(path, {**fields, 'state_dict': tensors})
  return path


def write_legacy(path, value):
  """Writes the layout before PyTorch 1.6."""
  path.write_bytes(legacy(value))


def legacy(value):
  """Returns a file of the layout before PyTorch 1.6; an array is a storage."""
  pickler = Pickler(is_legacy=True)
  system = {
    'protocol_version': 1001,
    'little_endian': True,
    'type_sizes': {'short': 2, 'int': 4, 'long': 4},
  }
  parts = [0x1950A86A20F9469CFC6C, 1001, system, value]
  code = b''.join(map(pickler.dump, parts))
  keys = [str(i) for i in range(len(pickler.storages))]
  code += pickler.dump(keys[::-1])
  for storage in pickler.storages[::-1]:
    code += struct.pack('<q', storage.size) + storage.tobytes()
  return code
