"""Which part of a parameter lives on which device.

What only an update reads and writes, the moments of the optimizer and the
averages, is split over `data` too (ZeRO, arXiv:1910.02054): every device
updates a part of the weights, for which it gets the summed gradients, and the
others get the new weights of it.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from pyramid_jax import errors
from pyramid_jax import placement
from pyramid_jax.placement import DATA
from pyramid_jax.placement import FSDP
from pyramid_jax.placement import TENSOR


Axes = str | tuple[str, ...] | None  # that split a dimension
# An axis of a mesh, and the dimension of a leaf that it should split.
Wish = tuple[str, int | None]

# Two axes in place of `data` for a leaf none of whose dimensions it divides.
_DATA_PARTS = ('data_0', 'data_1')

# Values of a leaf that no rule splits, from which on it is named.
_LARGE = 2**20

# How the kernels of two layers in a row are split, so that `tensor` divides the
# values between them and nothing is exchanged there (Megatron-LM,
# arXiv:1909.08053): the first by its results, the second by its inputs.
_FIRST = (FSDP, TENSOR)
_SECOND = (TENSOR, FSDP)
# Results that are several groups of such values, of which `tensor` divides each
# one: no range of the kernel's columns has a part of all. It is stored by rows,
# and exchanged when it is used (`affine.LinearParts`).
_GROUPS = ((FSDP, TENSOR), None)

# (end of the path, axes of the LAST dimensions). The first match wins. What
# the optimizer and the averages keep of a parameter has its path at the end of
# their own, so one rule serves all three.
RULES: tuple[tuple[str, tuple[Axes, ...]], ...] = (
  # Attention of U-Nets, their condition encoders and DiffiT's context.
  (r'to_[qkv]/kernel', _FIRST),
  (r'to_out/kernel', _SECOND),
  # Feed-forwards there, with a gate or without.
  (r'ff/net_0/kernel', _GROUPS),
  (r'ff/net_2/kernel', _SECOND),
  # Attention of U-Nets without a context.
  (r'qkv/kernel', _GROUPS),
  (r'attn_out/kernel', _SECOND),
  # DiffiT and DiT.
  (r'(attn/qkv|attn/qkv_temb|attn_qkv)/kernel', _GROUPS),
  (r'(attn/proj|attn_proj)/kernel', _SECOND),
  (r'mlp_fc1/kernel', _FIRST),
  (r'mlp_fc2/kernel', _SECOND),
  # Residual blocks of U-Nets and of first stages.
  (r'in_layers_2/kernel', _FIRST),
  (r'out_layers_3/kernel', _SECOND),
  (r'(en|de)c_\w+/conv0/kernel', _FIRST),
  (r'(en|de)c_\w+/conv1/kernel', _SECOND),
  (r'block_\d+/conv1/kernel', _FIRST),
  (r'block_\d+/conv2/kernel', _SECOND),
  # CLIP.
  (r'layers_\d+/([qkv]_proj|fc1)/kernel', _FIRST),
  (r'layers_\d+/(out_proj|fc2)/kernel', _SECOND),
  # T5.
  (r'block_\d+/([qkv]|wi_[01])/kernel', _FIRST),
  (r'block_\d+/w?o/kernel', _SECOND),
  # Biases of relative positions, a column for each head.
  (r'relative_position_bias_table(_\d+)?', (TENSOR,)),
  (r'relative_attention_bias/embedding', (TENSOR,)),
  # Tables, whose rows are too many or too few to divide.
  (r'(token_emb|embedding)', (FSDP,)),
  (r'bias|scale', (None,)),
)


def path_name(path: tuple[Any, ...]) -> str:
  """Returns 'generator/unet/conv_in/kernel' of a key path of `jax.tree`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def leaves(tree: Any) -> dict[str, Any]:
  """Returns the arrays of a tree by their `path_name`."""
  found = jax.tree_util.tree_leaves_with_path(tree)
  return {path_name(path): leaf for path, leaf in found}


def spec(
  name: str,
  shape: tuple[int, ...],
  sizes: Mapping[str, int],
  min_size: int,
  over_all: bool = False,
) -> PartitionSpec:
  """Returns the axes of the leaf with a path and shape.

  The first rule that matches holds, and `fsdp` splits a leaf without one. An
  axis that has no dimension, or does not divide its own, takes the largest that
  it divides, the last of equals.

  Args:
    name: its path.
    shape: its shape.
    sizes: the sizes of the mesh axes.
    min_size: leaves of fewer values are replicated.
    over_all: whether `data` splits what `fsdp` does.
  """
  if math.prod(shape) < min_size:
    return PartitionSpec()
  return _placed(_wishes(name, len(shape), over_all), shape, sizes)[0]


def _placed(
  wishes: Iterable[Wish], shape: tuple[int, ...], sizes: Mapping[str, int]
) -> tuple[PartitionSpec, list[int]]:
  """Returns the axes of a leaf, and what they leave of its dimensions."""
  split: list[tuple[str, ...]] = [() for _ in shape]
  left = list(shape)  # of each dimension on one device
  for axis, wished in wishes:
    size = sizes[axis]
    fitting = [i for i, n in enumerate(left) if n % size == 0]
    if size == 1 or not fitting:
      continue
    largest = max(fitting, key=lambda i: (left[i], i))
    place = wished if wished in fitting else largest
    split[place] = axis, *split[place]
    left[place] //= size
  while split and not split[-1]:
    split.pop()
  return PartitionSpec(*split), left


def _wishes(name: str, rank: int, over_all: bool) -> list[Wish]:
  """Returns the axes that split a leaf, and the dimension of each.

  `tensor` comes first: what its layers compute depends on the dimension.
  """
  wishes: list[Wish] = [(FSDP, None)]
  for pattern, axes in RULES:
    if re.search(f'(^|/)({pattern})$', name) and rank >= len(axes):
      wish: tuple[Axes, ...] = (None,) * (rank - len(axes)) + axes
      named = [(a,) if isinstance(a, str) else a or () for a in wish]
      wishes = [(a, i) for i, names in enumerate(named) for a in names]
      break
  if over_all:
    wishes += [(DATA, place) for axis, place in wishes if axis == FSDP]
  return sorted(wishes, key=lambda wish: -placement.AXES.index(wish[0]))


def shardings(
  tree: Any, mesh: Mesh, min_size: int, over_all: bool = False
) -> Any:
  """Returns the tree of shardings of a tree of arrays or shapes.

  They are those of `spec`. With `over_all`, a leaf of which `data` divides no
  dimension is split over two axes, parts of `data`, in a mesh of its own, whose
  devices are in the same order.
  """

  def one(path, leaf):
    name = path_name(path)
    axes = spec(name, leaf.shape, mesh.shape, min_size, over_all)
    if over_all and leaf.size >= min_size:
      return _in_parts(name, leaf.shape, NamedSharding(mesh, axes))
    return NamedSharding(mesh, axes)

  return jax.tree_util.tree_map_with_path(one, tree)


def _in_parts(
  name: str, shape: tuple[int, ...], whole: NamedSharding
) -> NamedSharding:
  """Splits a leaf by parts of `data` unless `data` itself splits it."""
  mesh = whole.mesh
  size, wishes = mesh.shape[DATA], _wishes(name, len(shape), True)
  if DATA not in dict(wishes) or size == 1 or DATA in axes_of(whole.spec):
    return whole
  others = [wish for wish in wishes if wish[0] != DATA]
  _, left = _placed(others, shape, mesh.shape)
  part = max(math.gcd(size, n) for n in left)
  sizes = (part, size // part, *mesh.devices.shape[1:])
  parted = Mesh(
    mesh.devices.reshape(sizes),
    (*_DATA_PARTS, *placement.AXES[1:]),
    axis_types=mesh.axis_types[:1] + mesh.axis_types,
  )
  place = dict(wishes)[DATA]
  axes, _ = _placed(
    [*others, *((axis, place) for axis in _DATA_PARTS)], shape, parted.shape
  )
  return NamedSharding(parted, axes)


def axes_of(split: PartitionSpec) -> Iterator[str]:
  """Yields the axes of a mesh that split some dimension."""
  for entry in split:
    yield from (entry,) if isinstance(entry, str) else entry or ()


def abstract(
  tree: Any, mesh: Mesh, min_size: int, over_all: bool = False
) -> Any:
  """Returns the tree as `jax.ShapeDtypeStruct` leaves with their shardings."""
  return jax.tree.map(
    lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
    tree,
    shardings(tree, mesh, min_size, over_all),
  )


def constrained(
  tree: Any, mesh: Mesh, min_size: int, over_all: bool = False
) -> Any:
  """Splits gradients, or other trees with the paths of parameters, as these."""
  places = shardings(tree, mesh, min_size, over_all)
  return jax.lax.with_sharding_constraint(tree, places)


def device_bytes(tree: Any) -> int:
  """Returns the bytes that a device holds of an `abstract` tree."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


@contextlib.contextmanager
def traced_on(mesh: Mesh) -> Iterator[None]:
  """Is `placement.on(mesh)`; layers that it cannot split are a UserError."""
  try:
    with placement.on(mesh):
      yield
  except placement.IndivisibleError as error:
    raise errors.UserError(str(error)) from error


def check_tensor(tree: Any, sizes: Mapping[str, int]) -> None:
  """Raises a UserError for a `tensor` axis that splits nothing of a tree."""
  wished = (
    axis
    for name, leaf in leaves(tree).items()
    if name.endswith('/kernel')
    for axis, _ in _wishes(name, len(leaf.shape), False)
  )
  if sizes[TENSOR] > 1 and TENSOR not in wished:
    raise errors.UserError(
      f'config.mesh.tensor={sizes[TENSOR]} splits attention, feed-forward'
      ' layers and residual blocks, of which this system has none; use data and'
      ' fsdp.'
    )


def table(tree: Any, min_size: int) -> str:
  """Returns one line for each way that leaves of an `abstract` tree split.

  Below them is each leaf that is whole on every device, although it has
  `min_size` values and axes to split it, or as many as `_LARGE`.
  """
  groups: dict[str, list[tuple[str, Any]]] = {}
  for name, leaf in leaves(tree).items():
    axes = ', '.join(str(a or '-') for a in leaf.sharding.spec)
    groups.setdefault(axes or 'replicated', []).append((name, leaf))
  lines = [f'{"sharding":<24}{"leaves":>8}{"MiB/device":>12}  largest']
  for axes, group in groups.items():
    largest = max(group, key=lambda item: math.prod(item[1].shape))
    size = device_bytes([leaf for _, leaf in group])
    lines.append(
      f'{axes:<24}{len(group):>8}{size / 2**20:>12.2f}  '
      f'{largest[0]} {largest[1].shape}'
    )
  return '\n'.join(lines + _whole(groups.get('replicated', ()), min_size))


def _whole(group: Iterable[tuple[str, Any]], min_size: int) -> list[str]:
  lines = []
  for name, leaf in group:
    sizes, count = leaf.sharding.mesh.shape, math.prod(leaf.shape)
    wishes = _wishes(name, len(leaf.shape), False)
    axes = [axis for axis, _ in wishes if sizes[axis] > 1]
    if axes and count >= min_size:
      lines.append(f'{" and ".join(axes)} cannot split {name} {leaf.shape}')
    elif max(sizes[FSDP], sizes[TENSOR]) > 1 and count >= _LARGE:
      lines.append(f'no rule splits {name} {leaf.shape}')
  return lines
