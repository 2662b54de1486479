"""Two-way map between official state dicts and our parameter trees.

A `rename` is the whole knowledge about a network: it turns a Flax path into
the official key and the kind of tensor found there. The kind says how the
layout changes; every change is a permutation of elements, so the way back is
exact and holds for gradients as well.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import re
from typing import Any
from typing import NamedTuple

from flax import traverse_util
import flax.core
import jax
import numpy as np


Path = tuple[str, ...]
Rename = Callable[[Path], tuple[str, str]]
Shape = tuple[int, ...]


class Kind(NamedTuple):
  """How a tensor changes its layout; `rank` is the official one, if fixed."""

  rank: int | None = None
  to_flax: Callable[[np.ndarray], np.ndarray] = lambda w: w
  to_official: Callable[[np.ndarray], np.ndarray] = lambda w: w


def _three_first(w: np.ndarray) -> np.ndarray:
  """Maps rows (channel, q/k/v) to (q/k/v, channel); (3 C, ...) each."""
  return w.reshape(-1, 3, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape)


def _three_last(w: np.ndarray) -> np.ndarray:
  """Undoes `_three_first`."""
  return w.reshape(3, -1, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape)


KINDS = {
  # (O, I, *space) <-> nn.Conv (*space, I, O), any number of dimensions
  'conv': Kind(
    None,
    lambda w: np.moveaxis(w, (0, 1), (-1, -2)),
    lambda w: np.moveaxis(w, (-1, -2), (0, 1)),
  ),
  # (I, O, h, w) <-> nn.ConvTranspose(padding='SAME') (h, w, I, O), which does
  # not flip its kernel; PyTorch's does
  'conv_transpose': Kind(
    4,
    lambda w: w.transpose(2, 3, 0, 1)[::-1, ::-1],
    lambda w: w[::-1, ::-1].transpose(2, 3, 0, 1),
  ),
  # (O, I) <-> nn.Dense (I, O)
  'linear': Kind(2, np.transpose, np.transpose),
  # pointwise convolutions that are nn.Dense here: (O, I, 1), (O, I, 1, 1)
  'conv1d': Kind(3, lambda w: w[..., 0].T, lambda w: w.T[..., None]),
  'conv1x1': Kind(4, lambda w: w[..., 0, 0].T, lambda w: w.T[..., None, None]),
  # a pointwise convolution to queries, keys and values, the three numbers of a
  # channel together <-> all queries, then keys, then values; and its bias
  'conv1x1_qkv': Kind(
    4,
    lambda w: _three_first(w[..., 0, 0]).T,
    lambda w: _three_last(w.T)[..., None, None],
  ),
  'bias_qkv': Kind(1, _three_first, _three_last),
  'embedding': Kind(),
  'norm': Kind(),
  'bias': Kind(),
  'raw': Kind(),
}


# Leaf of ours -> last part of the official key, and its kind if that is fixed.
_LEAVES = {
  'kernel': ('weight', ''),
  'bias': ('bias', 'bias'),
  'scale': ('weight', 'norm'),
  'embedding': ('weight', 'embedding'),
  'mean': ('running_mean', 'raw'),
  'var': ('running_var', 'raw'),
}


def official(module: str, leaf: str, kernel: str = 'linear') -> tuple[str, str]:
  """Returns official key and kind of a leaf.

  Args:
    module: official name of the module.
    leaf: our name of the parameter or statistic in it; one that only we have
      keeps it.
    kernel: kind of the module's kernel.
  """
  name, kind = _LEAVES.get(leaf, (leaf, 'raw'))
  return f'{module}.{name}', kind or kernel


_ACCOUNTS = ('matched', 'missing', 'mismatched', 'unused')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """What became of the keys of a state dict; shapes are official ones."""

  # Keys that were taken.
  matched: dict[str, Shape] = dataclasses.field(default_factory=dict)
  # Keys that the template needs and the state dict lacks.
  missing: dict[str, Shape] = dataclasses.field(default_factory=dict)
  # Keys of the state dict that were not requested.
  unused: dict[str, Shape] = dataclasses.field(default_factory=dict)
  # Key -> (shape found, shape needed); the value was not taken.
  mismatched: dict[str, tuple[Shape, Shape]] = dataclasses.field(
    default_factory=dict
  )
  notes: list[str] = dataclasses.field(default_factory=list)  # for people

  def add(self, other: 'Report') -> None:
    """Adds the account of further parameters."""
    for name in _ACCOUNTS:
      getattr(self, name).update(getattr(other, name))
    self.notes.extend(n for n in other.notes if n not in self.notes)

  def leave_out(self, keys: Iterable[str]) -> None:
    """Turns keys that are known and that no step reads into a note."""
    found = [key for key in keys if self.unused.pop(key, None) is not None]
    if found:
      self.notes.append(f'left out, since no step reads it: {", ".join(found)}')

  def renamed(self, rename: Callable[[str], str]) -> 'Report':
    """Returns the same account under other keys."""
    accounts = {
      name: {rename(k): shape for k, shape in getattr(self, name).items()}
      for name in _ACCOUNTS
    }
    return Report(**accounts, notes=self.notes)

  @property
  def complete(self) -> bool:
    """Whether every parameter was found with its shape."""
    return not self.missing and not self.mismatched

  def lines(self) -> list[str]:
    """Returns a printable account."""
    lines = list(self.notes)
    for name in _ACCOUNTS:
      keys = getattr(self, name)
      is_pair = name == 'mismatched'
      lines.append(f'{name}: {len(keys)}')
      lines += [
        f'  {key} {_needed(shape) if is_pair else shape}'
        for key, shape in keys.items()
      ]
    return lines

  def require_complete(self) -> None:
    """Raises ValueError naming the first missing or mismatched keys."""
    if self.complete:
      return
    first = [f'{k} {s} is missing' for k, s in self.missing.items()]
    first += [f'{k} is {_needed(s)}' for k, s in self.mismatched.items()]
    more = f' and {len(first) - 4} more' if len(first) > 4 else ''
    raise ValueError('incomplete state dict: ' + '; '.join(first[:4]) + more)


def _needed(shapes: tuple[Shape, Shape]) -> str:
  return f'{shapes[0]}, needed {shapes[1]}'


class Renamed(Mapping[str, np.ndarray]):
  """A state dict under other names; a tensor is read when it is requested."""

  def __init__(self, state: Mapping[str, np.ndarray], names: Mapping[str, str]):
    self._state, self._names = state, names  # new name -> old name

  def __contains__(self, name: object) -> bool:
    return name in self._names

  def __getitem__(self, name: str) -> np.ndarray:
    return self._state[self._names[name]]

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)


def unstack(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  """Replaces a scanned module `name`, if any, by `name`_0, `name`_1 ..."""
  if name not in tree:
    return tree
  rest = {key: value for key, value in tree.items() if key != name}
  depth = jax.tree.leaves(tree[name])[0].shape[0]

  def row(leaf, i):
    if isinstance(leaf, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    return leaf[i]

  return rest | {
    f'{name}_{i}': jax.tree.map(lambda leaf, i=i: row(leaf, i), tree[name])
    for i in range(depth)
  }


def stack(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Undoes `unstack`, with arrays of NumPy."""
  depth = sum(re.fullmatch(rf'{name}_\d+', key) is not None for key in tree)
  parts = [tree[f'{name}_{i}'] for i in range(depth)]
  rest = {k: v for k, v in tree.items() if not re.fullmatch(rf'{name}_\d+', k)}

  def joined(*leaves):
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
      shape = (depth, *leaves[0].shape)
      return jax.ShapeDtypeStruct(shape, leaves[0].dtype)
    return np.stack(leaves)

  return rest | {name: jax.tree.map(joined, *parts)}


def count(state: Iterable[str], prefix: str) -> int:
  """Returns how many blocks PREFIX.0, PREFIX.1 ... the keys of a state name."""
  found = [re.match(rf'{re.escape(prefix)}\.(\d+)\.', key) for key in state]
  return 1 + max((int(match[1]) for match in found if match), default=-1)


def flatten(tree: Any) -> dict[Path, Any]:
  """Flattens nested dicts to `{path: leaf}`."""
  return traverse_util.flatten_dict(flax.core.unfreeze(tree))


def to_flax(
  state: Mapping[str, np.ndarray],
  template: Any,
  rename: Rename,
  prefix: str = '',
) -> tuple[dict[str, Any], Report]:
  """Fills a parameter tree from an official state dict.

  Args:
    state: official key -> array.
    template: tree of arrays or shapes (`jax.eval_shape`); gives the shapes
      and dtypes. A leaf that is missing or mismatched is kept from here.
    rename: Flax path -> (official key without prefix, kind).
    prefix: put before every official key; keys without it are not looked at.

  Returns:
    The tree of NumPy arrays, and the account of keys (prefix included).

  Raises:
    ValueError: an unknown kind, or two parameters that want the same key.
  """
  leaves: dict[Path, Any] = {}
  wanted: dict[str, Path] = {}
  report = Report()
  for path, leaf in flatten(template).items():
    leaves[path] = leaf
    key, kind = rename(path)
    key = prefix + key
    if key in wanted:
      raise ValueError(f'{key!r} is wanted by {wanted[key]} and by {path}')
    wanted[key] = path
    need = _official_shape(tuple(leaf.shape), kind, path)
    if key not in state:
      report.missing[key] = need
      continue
    value = np.asarray(state[key])
    if value.shape != need and not _is_same(value.shape, need):
      report.mismatched[key] = (value.shape, need)
      continue
    value = KINDS[kind].to_flax(value.reshape(need))
    # a copy, so that no parameter keeps a mapped file or a big storage alive
    leaves[path] = np.array(value, dtype=leaf.dtype, order='C')
    report.matched[key] = need
  for key in state:
    if key.startswith(prefix) and key not in wanted:
      report.unused[key] = tuple(np.shape(state[key]))
  return traverse_util.unflatten_dict(leaves), report


def _is_same(found: Shape, need: Shape) -> bool:
  """Whether shapes differ by axes of one element at the end only.

  A pointwise convolution may be stored as a linear layer (the projections of
  Stable Diffusion 2), and a number as an array of one.
  """
  most = max(len(found), len(need))
  padded = [(*shape, *(1,) * (most - len(shape))) for shape in (found, need)]
  return padded[0] == padded[1] and (need == () or len(found) > 1)


def to_official(
  params: Any, rename: Rename, prefix: str = ''
) -> dict[str, np.ndarray]:
  """Turns our tree (parameters or gradients) into an official state dict.

  Exactly the inverse of `to_flax`.

  Raises:
    ValueError: an unknown kind, or two parameters with the same key.
  """
  state: dict[str, np.ndarray] = {}
  for path, leaf in flatten(params).items():
    key, kind = rename(path)
    key = prefix + key
    if key in state:
      raise ValueError(f'two parameters are named {key!r}; one is {path}')
    value = _kind(kind, path).to_official(np.asarray(leaf))
    state[key] = np.array(value, order='C')
  return state


def _kind(kind: str, path: Path) -> Kind:
  if kind not in KINDS:
    raise ValueError(
      f'kind {kind!r} of {"/".join(path)}; allowed: {", ".join(KINDS)}'
    )
  return KINDS[kind]


def _official_shape(shape: Shape, kind: str, path: Path) -> Shape:
  rank, _, backward = _kind(kind, path)
  # a view of one zero: only the shape is wanted, whatever its size
  official = backward(np.broadcast_to(np.float32(0), shape)).shape
  if rank is not None and len(official) != rank:
    raise ValueError(
      f'{"/".join(path)} of shape {shape} cannot be of kind {kind!r}'
    )
  return official
