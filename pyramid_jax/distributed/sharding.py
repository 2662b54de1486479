"""Which part of a parameter lives on which device."""

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

# Values of a leaf that no rule splits, from which on it is named.
_LARGE = 2**20

# How the kernels of two layers in a row are split, so that `tensor` divides the
# values between them and nothing is exchanged there (Megatron-LM,
# arXiv:1909.08053): the first by its results, the second by its inputs.
_FIRST = (FSDP, TENSOR)
_SECOND = (TENSOR, FSDP)
# Results that are several groups of such values, of which `tensor` divides each
# one: no range of the kernel's columns has a part of all. It is stored by rows,
# and exchanged when it is used (`affine.Linear.groups`).
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
  split: list[tuple[str, ...]] = [() for _ in shape]
  left = list(shape)  # of each dimension on one device
  for axis, wished in _wishes(name, len(shape), over_all):
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
  return PartitionSpec(*split)


def _wishes(
  name: str, rank: int, over_all: bool
) -> list[tuple[str, int | None]]:
  """Returns the axes that split a leaf, and the dimension of each.

  `tensor` comes first: what its layers compute depends on the dimension.
  """
  wishes: list[tuple[str, int | None]] = [(FSDP, None)]
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
  """Returns the tree of shardings of a tree of arrays or shapes."""

  def one(path, leaf):
    name, sizes = path_name(path), mesh.shape
    axes = spec(name, leaf.shape, sizes, min_size, over_all)
    return NamedSharding(mesh, axes)

  return jax.tree_util.tree_map_with_path(one, tree)


def abstract(
  tree: Any, mesh: Mesh, min_size: int, over_all: bool = False
) -> Any:
  """Returns the tree as `jax.ShapeDtypeStruct` leaves with their shardings."""
  return jax.tree.map(
    lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
    tree,
    shardings(tree, mesh, min_size, over_all),
  )


def constrained(tree: Any, min_size: int) -> Any:
  """Splits gradients, or other trees with the paths of parameters, as these.

  It holds within `placement.on`; without it the tree stays as it is.
  """
  sizes = placement.sizes()
  if not sizes:
    return tree

  def one(path, leaf):
    split = spec(path_name(path), leaf.shape, sizes, min_size)
    return jax.lax.with_sharding_constraint(leaf, split)

  return jax.tree_util.tree_map_with_path(one, tree)


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
