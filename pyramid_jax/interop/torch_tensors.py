"""Storages and tensors of PyTorch as its pickles describe them.

A table says which names of a pickle make them; every other name makes an
object that does nothing, and nothing is imported.
"""

from collections.abc import Callable
import dataclasses
import math
import reprlib
from typing import Any

import ml_dtypes
import numpy as np

from pyramid_jax import limits
from pyramid_jax.interop import unpickler


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
class Storage:
  """A flat buffer; `data` comes later in the legacy layout."""

  name: str
  dtype: np.dtype
  size: int
  data: np.ndarray | None = None

  @property
  def bytes(self) -> int:
    """The bytes that it needs."""
    return self.size * self.dtype.itemsize

  def fill(self, raw: np.ndarray) -> None:
    """Takes the bytes of the buffer, at least as many as it needs."""
    if raw.size < self.bytes:
      raise ValueError(
        f'storage {self.name!r} has {raw.size} bytes, needs {self.bytes}'
      )
    self.data = raw[: self.bytes].view(self.dtype)


@dataclasses.dataclass(eq=False)
class Tensor:
  """A view of a storage; offset and strides count elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  @property
  def bytes(self) -> int:
    """Those of its array, however often it repeats a number."""
    is_half = self.storage.dtype == ml_dtypes.bfloat16
    return math.prod(self.shape) * self.storage.dtype.itemsize * (1 + is_half)

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


class Unknown:
  """The names of a file that are not known; they are never imported."""

  def __init__(self) -> None:
    self.names: dict[str, None] = {}

  def __call__(self, name: str) -> unpickler.Global:
    """Returns what stands for a name: it makes objects that do nothing."""
    if len(self.names) < limits.UNKNOWN_NAMES:
      self.names[name] = None

    def make(*args: Any) -> unpickler.Inert:
      parts = [y for x in args for y in (x if isinstance(x, tuple) else (x,))]
      if any(isinstance(part, Tensor | Storage) for part in parts):
        raise ValueError(
          f'global {name!r} makes a tensor, which is not allowed in a weight'
          ' file'
        )
      return unpickler.Inert()

    return unpickler.Global(name, make)


def storage(identifier: Any, storages: dict[str, Storage]) -> Storage:
  """Finds or makes the storage of a persistent identifier.

  Raises:
    ValueError: no identifier of a storage, or one that contradicts another.
  """
  if (
    not isinstance(identifier, tuple)
    or len(identifier) not in (5, 6)
    or identifier[0] != 'storage'
    or not isinstance(identifier[1], unpickler.Global)
    or identifier[1].name not in _STORAGES
    or not isinstance(identifier[2], str)
    or len(identifier[2]) > limits.PICKLE_NAME
    or type(identifier[4]) is not int
    or not 0 <= identifier[4] < 1 << 48
  ):
    raise ValueError(f'damaged checkpoint: storage {shown(identifier)}')
  _, kind, key, _, size = identifier[:5]
  if len(identifier) == 6 and identifier[5] is not None:
    raise ValueError(f'storage {key!r} is a view, which is not supported')
  name = f'{key} {kind.name.removeprefix("torch.").removesuffix("Storage")}'
  made = storages.setdefault(key, Storage(name, _STORAGES[kind.name], size))
  if (made.name, made.size) != (name, size):
    raise ValueError(f'storage {key!r} is described in two ways')
  return made


def tensor(
  storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> Tensor:
  """Stands for `_rebuild_tensor_v2`; nothing may leave the storage.

  Raises:
    ValueError: anything but a tensor that lies in its storage.
  """
  if (
    not isinstance(storage, Storage)
    or not isinstance(shape, tuple | list)
    or not isinstance(strides, tuple | list)
    or len(shape) != len(strides)
    or len(shape) > limits.TENSOR_DIMENSIONS
    or any(
      type(n) is not int or not 0 <= n < 1 << 48
      for n in (offset, *shape, *strides)
    )
  ):
    raise ValueError(
      f'a tensor of shape {shown(shape)}, strides'
      f' {shown(strides)}, offset {shown(offset)}'
    )
  count = math.prod(shape)
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  if count and last >= storage.size:
    raise ValueError(
      f'a tensor of shape {shape}, strides {strides}, offset {offset} leaves'
      f' its storage of {storage.size} elements'
    )
  if count > max(storage.size, limits.REPEATED_ELEMENTS):
    raise ValueError(
      f'a tensor of shape {shape} repeats a storage of {storage.size}'
    )
  return Tensor(storage, offset, tuple(shape), tuple(strides))


def ordered_dict(items: Any = ()) -> dict[Any, Any]:
  """Stands for `OrderedDict`; keys are text or numbers."""
  if not all(unpickler.is_plain(key) for key, _ in items):
    raise ValueError('keys of an OrderedDict that are neither text nor numbers')
  return {key: value for key, value in items}


def _allowed() -> dict[str, unpickler.Global]:
  makers: dict[str, Callable[..., Any]] = {
    'collections.OrderedDict': ordered_dict,
    'torch._utils._rebuild_tensor': tensor,
    'torch._utils._rebuild_tensor_v2': tensor,
    'torch._utils._rebuild_parameter': lambda data, *_: data,
  }
  inert = [
    f'{m}.{name}' for m, names in _INERT.items() for name in names.split()
  ]
  for name in (*inert, *_STORAGES):
    makers[name] = lambda *_: unpickler.Inert()
  return {name: unpickler.Global(name, m) for name, m in makers.items()}


# 'module.name' -> what stands for it, see `unpickler.load`.
ALLOWED = _allowed()


def shown(value: Any) -> str:
  """Returns something short for messages."""
  text = value if isinstance(value, str) else reprlib.repr(value)
  return ' '.join(text[:200].split())
