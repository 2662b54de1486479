"""Reads the tensors of a network that EDM pickled, and runs nothing of it.

NVlabs/edm: torch_utils/persistence.py pickles a network as objects that hold
the source code of their classes. Here such an object is the name of its class
and a dictionary of its attributes; the source code is a text that nothing
reads. Tensors are `torch_tensors`, whose storages are PyTorch files of the
older layout within the pickle.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import io
import os
from typing import Any

from absl import logging
import numpy as np

from pyramid_jax import limits
from pyramid_jax.files import bounded
from pyramid_jax.files import copies
from pyramid_jax.interop import torch_file
from pyramid_jax.interop import torch_tensors
from pyramid_jax.interop import unpickler


NETWORK = 'ema'  # the entry of a snapshot that holds the averaged network
# How a pickle of the protocols 2 to 5 begins.
STARTS = tuple(b'\x80' + bytes([protocol]) for protocol in range(2, 6))
_RECONSTRUCT = 'torch_utils.persistence._reconstruct_persistent_obj'
_CONTAINERS = ('ModuleDict', 'ModuleList', 'Sequential')
_PLAIN = (str, int, float, bool, type(None))


class Snapshot(dict[str, np.ndarray]):
  """The tensors of a network by name, parameters and buffers.

  Attributes:
    class_name: the class of the network, such as 'EDMPrecond'.
    settings: the numbers, texts and lists of them that it was constructed with
      or has as attributes, by name.
  """

  def __init__(
    self,
    tensors: Mapping[str, np.ndarray],
    class_name: str,
    settings: Mapping[str, Any],
  ):
    super().__init__(tensors)
    self.class_name, self.settings = class_name, settings


def read(path: str | os.PathLike[str]) -> Snapshot:
  """Returns the averaged network of a snapshot.

  Raises:
    ValueError: damage, a class that makes tensors and is not known, or no
      network.
    OSError: the file cannot be opened.
  """
  path = copies.local(path)
  bounded.check(path, limits.FILE_BYTES)
  size = os.stat(path).st_size
  unknown = torch_tensors.Unknown()
  with open(path, 'rb') as file:
    # Storages are read twice: within the pickle, and as files of their own.
    budget = unpickler.Budget(2 * size + limits.PICKLE_BYTES)
    allowed = _allowed(unknown, budget)
    loaded = unpickler.load(file, allowed, _no_storage, unknown, budget)
  network = loaded.get(NETWORK) if isinstance(loaded, dict) else None
  if not isinstance(network, unpickler.Object):
    raise ValueError(f'a pickle without an entry {NETWORK!r} that is a network')
  if unknown.names:
    names = ', '.join(list(unknown.names)[:20])
    logging.warning('left out, never imported: %s', names)
  found = dict(_tensors(network, '', [limits.TENSORS]))
  if not found:
    raise ValueError(f'the network {network.name} has no tensors')
  most = limits.TORCH_BYTES + limits.TORCH_RATIO * size
  if sum(tensor.bytes for tensor in found.values()) > most:
    raise ValueError(
      f'{size} bytes whose tensors repeat numbers until they have more than'
      f' {most}'
    )
  arrays = {name: tensor.numpy() for name, tensor in found.items()}
  return Snapshot(arrays, network.name, _settings(network))


def _allowed(
  unknown: torch_tensors.Unknown, budget: unpickler.Budget
) -> dict[str, unpickler.Global]:
  """Returns what stands for the names of a snapshot."""

  def persistent(meta: Any) -> unpickler.Object:
    name = meta.get('class_name') if isinstance(meta, dict) else None
    if not isinstance(name, str) or len(name) > limits.PICKLE_NAME:
      raise ValueError('damaged pickle: an object without the name of a class')
    return unpickler.Object(name, meta.get('state'))

  def storage(data: Any) -> torch_tensors.Storage:
    if not isinstance(data, bytes):
      raise ValueError('damaged pickle: a storage that is not bytes')
    raw = np.frombuffer(data, np.uint8)
    found = torch_file.legacy(io.BytesIO(data), raw, unknown, budget)
    if not isinstance(found, torch_tensors.Storage):
      raise ValueError('damaged pickle: bytes that hold no storage')
    return found

  makers = {
    _RECONSTRUCT: persistent,
    'torch.storage._load_from_bytes': storage,
    'dnnlib.util.EasyDict': lambda *_: {},
  }
  for name in _CONTAINERS:
    full = f'torch.nn.modules.container.{name}'
    makers[full] = lambda *_, name=name: unpickler.Object(name)
  own = {name: unpickler.Global(name, make) for name, make in makers.items()}
  return {**torch_tensors.ALLOWED, **own}


def _no_storage(identifier: Any) -> Any:
  del identifier
  raise ValueError('damaged pickle: it refers to something outside of it')


def _entries(module: unpickler.Object, name: str) -> dict[Any, Any]:
  """Returns a dictionary among the attributes of an object, {} without it."""
  state = module.state if isinstance(module.state, dict) else {}
  found = state.get(name)
  return found if isinstance(found, dict) else {}


def _tensors(
  module: unpickler.Object, prefix: str, left: list[int], depth: int = 0
) -> Iterator[tuple[str, torch_tensors.Tensor]]:
  """Yields the tensors of a module and of those in it, by their names.

  `left` counts down: modules may be in each other many times.
  """
  left[0] -= 1
  if left[0] < 0 or depth > limits.MODULE_DEPTH:
    raise ValueError(
      f'a network of more than {limits.TENSORS} tensors and modules, or more'
      f' than {limits.MODULE_DEPTH} modules in each other'
    )
  for kind in ('_parameters', '_buffers'):
    for name, value in _entries(module, kind).items():
      if isinstance(value, torch_tensors.Tensor):
        left[0] -= 1
        yield _checked(f'{prefix}{name}'), value
  for name, child in _entries(module, '_modules').items():
    if isinstance(child, unpickler.Object):
      yield from _tensors(child, _checked(f'{prefix}{name}.'), left, depth + 1)


def _checked(name: str) -> str:
  if len(name) > limits.TENSOR_NAME:
    raise ValueError(
      f'a name of {len(name)} characters; limit: {limits.TENSOR_NAME}'
    )
  return name


def _settings(network: unpickler.Object) -> dict[str, Any]:
  """Returns what a network was constructed with, as far as it is plain."""
  named = {**_entries(network, '_init_kwargs'), **network.state}
  return {
    name: value
    for name, value in named.items()
    if isinstance(name, str)
    and not name.startswith('_')
    and all(
      isinstance(part, _PLAIN)
      for part in (value if isinstance(value, list) else [value])
    )
  }
