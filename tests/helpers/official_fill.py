"""Weights and inputs that a formula gives, the same ones in any framework.

The reference numbers of the tests were computed by the official modules with
every tensor filled by this rule, so no file of weights is needed. An element
depends on the tensor's official key and its index only.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import zlib

import jax
import numpy as np

from pyramid_jax.interop import mapping


def uniform(key: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns numbers in [-0.5, 0.5), a hash of the key and the C-order index."""
  index = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint32)
  x = index + np.uint32(zlib.crc32(key.encode()))
  x ^= x >> np.uint32(16)
  x *= np.uint32(0x7FEB352D)
  x ^= x >> np.uint32(15)
  x *= np.uint32(0x846CA68B)
  x ^= x >> np.uint32(16)
  return (x / 2**32 - 0.5).astype(np.float32).reshape(shape)


def tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the value of the state-dict entry `key`, in PyTorch's layout."""
  u = uniform(key, shape)
  if len(shape) >= 2:
    return u * np.float32(np.sqrt(12 / (u.size / shape[0])))
  if key.endswith('weight'):
    return 1 + np.float32(0.2) * u
  return np.float32(0.2) * u


@dataclasses.dataclass(frozen=True)
class State(Mapping[str, np.ndarray]):
  """A state dict of `tensor`s, none of which exists before it is read.

  Attributes:
    shapes: of all tensors, PyTorch's layout.
  """

  shapes: Mapping[str, tuple[int, ...]]

  def __getitem__(self, key: str) -> np.ndarray:
    return tensor(key, self.shapes[key])

  def __iter__(self) -> Iterator[str]:
    return iter(self.shapes)

  def __len__(self) -> int:
    return len(self.shapes)


def inputs(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns an input in [-1, 1), official layout; noise has unit variance."""
  is_noise = name == 'x_T' or name.startswith('noise')
  factor = 3.4641016 if is_noise else 2
  return uniform(name, shape) * np.float32(factor)


def official_shapes(
  template, rename: mapping.Rename
) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every official tensor behind a parameter tree."""
  _, report = mapping.to_flax({}, template, rename)
  return dict(report.missing)


def params(
  init: Callable[..., dict], rename: mapping.Rename, *args, **kwargs
) -> dict:
  """Returns filled parameters of the module whose `init` is given.

  Args:
    init: bound method of a module.
    rename: of the module's family.
    *args: of `init`, after the key.
    **kwargs: of `init`.
  """
  template = jax.eval_shape(
    lambda key: init(key, *args, **kwargs), jax.random.key(0)
  )['params']
  shapes = official_shapes(template, rename)
  filled, report = mapping.to_flax(State(shapes), template, rename)
  report.require_complete()
  return filled


def sine(shape: tuple[int, ...], phase: float = 0.5) -> np.ndarray:
  """Returns sin(0.11 n + phase) over the C-order index n."""
  n = np.arange(np.prod(shape, dtype=np.int64))
  return np.sin(0.11 * n + phase).reshape(shape).astype(np.float32)


def sine_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Fills an official state dict by sines, key by key in sorted order.

  Args:
    shapes: of all tensors, PyTorch's layout.
  """
  state = {}
  for i, (key, shape) in enumerate(sorted(shapes.items())):
    size = int(np.prod(shape, dtype=np.int64))
    s = np.sin(0.37 * np.arange(size) + 1.3 * i).reshape(shape)
    if len(shape) >= 2:
      s = s * np.sqrt(2 / np.prod(shape[1:]))
    elif key.endswith('weight'):
      s = 1 + 0.1 * s
    else:
      s = 0.1 * s
    state[key] = s.astype(np.float32)
  return state
