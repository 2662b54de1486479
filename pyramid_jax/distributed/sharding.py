"""Which part of a parameter lives on which device."""

from collections.abc import Mapping
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from pyramid_jax import placement


# (pattern of the path, axis of each of the LAST dimensions). The first match
# wins; an axis that does not divide its dimension is left out. The optimizer
# state and the averages have the paths of their parameters at the end, so one
# rule serves all three.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r'/(to_q|to_k|to_v)/kernel$', ('fsdp', 'tensor')),
  (r'/to_out[^/]*/kernel$', ('tensor', 'fsdp')),
  (r'/(token_emb|embedding)$', ('fsdp', 'tensor')),
)


def path_name(path: tuple[Any, ...]) -> str:
  """Returns 'generator/unet/conv_in/kernel' of a key path of `jax.tree`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def leaves(tree: Any) -> dict[str, Any]:
  """Returns the arrays of a tree by their `path_name`."""
  found = jax.tree_util.tree_leaves_with_path(tree)
  return {path_name(path): leaf for path, leaf in found}


def spec(
  name: str, shape: tuple[int, ...], sizes: Mapping[str, int], min_size: int
) -> PartitionSpec:
  """Returns the axes of the leaf with a path and shape.

  The first rule that matches holds; without one, the largest dimension that
  `fsdp` divides is split (the last of equals).

  Args:
    name: its path.
    shape: its shape.
    sizes: the sizes of the mesh axes.
    min_size: leaves of fewer values are replicated.
  """
  if math.prod(shape) < min_size or not shape:
    return PartitionSpec()
  for pattern, axes in RULES:
    if re.search(pattern, name) and len(shape) >= len(axes):
      wish = (None,) * (len(shape) - len(axes)) + axes
      pairs = zip(wish, shape, strict=True)
      divides = [a if a and n % sizes[a] == 0 else None for a, n in pairs]
      return PartitionSpec(*divides)
  fsdp = sizes['fsdp']
  fitting = [(s, i) for i, s in enumerate(shape) if s % fsdp == 0]
  if fsdp == 1 or not fitting:
    return PartitionSpec()
  return PartitionSpec(*[None] * max(fitting)[1], 'fsdp')


def shardings(tree: Any, mesh: Mesh, min_size: int) -> Any:
  """Returns the tree of shardings of a tree of arrays or shapes."""

  def one(path, leaf):
    name = path_name(path)
    return NamedSharding(mesh, spec(name, leaf.shape, mesh.shape, min_size))

  return jax.tree_util.tree_map_with_path(one, tree)


def abstract(tree: Any, mesh: Mesh, min_size: int) -> Any:
  """Returns the tree as `jax.ShapeDtypeStruct` leaves with their shardings."""
  return jax.tree.map(
    lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
    tree,
    shardings(tree, mesh, min_size),
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


def table(tree: Any) -> str:
  """Returns one line for each way that leaves of an `abstract` tree split."""
  groups: dict[str, list[tuple[str, Any]]] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    axes = ', '.join(str(a or '-') for a in leaf.sharding.spec)
    groups.setdefault(axes or 'replicated', []).append((path_name(path), leaf))
  lines = [f'{"sharding":<24}{"leaves":>8}{"MiB/device":>12}  largest']
  for axes, leaves in groups.items():
    largest = max(leaves, key=lambda item: math.prod(item[1].shape))
    size = device_bytes([leaf for _, leaf in leaves])
    lines.append(
      f'{axes:<24}{len(leaves):>8}{size / 2**20:>12.2f}  '
      f'{largest[0]} {largest[1].shape}'
    )
  return '\n'.join(lines)
