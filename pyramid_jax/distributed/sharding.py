"""Which part of a parameter lives on which device."""

from collections.abc import Mapping
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec


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


def spec(
  name: str, shape: tuple[int, ...], sizes: Mapping[str, int], min_size: int
) -> PartitionSpec:
  """Returns the axes of one leaf.

  Args:
    name: its path.
    shape: its shape.
    sizes: of the mesh axes.
    min_size: leaves of fewer values are replicated.

  Returns:
    The first rule that matches; without one, the largest dimension that
    `fsdp` divides is split (the last of equals).
  """
  if math.prod(shape) < min_size or not shape:
    return PartitionSpec()
  for pattern, axes in RULES:
    if re.search(pattern, name) and len(shape) >= len(axes):
      wish = (None,) * (len(shape) - len(axes)) + axes
      return PartitionSpec(
        *(
          axis if axis and size % sizes[axis] == 0 else None
          for axis, size in zip(wish, shape, strict=True)
        )
      )
  fsdp = sizes['fsdp']
  fitting = [(s, i) for i, s in enumerate(shape) if s % fsdp == 0]
  if fsdp == 1 or not fitting:
    return PartitionSpec()
  best = max(fitting)[1]
  return PartitionSpec(
    *('fsdp' if i == best else None for i in range(best + 1))
  )


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


def table(tree: Any) -> str:
  """Returns one line for each way that leaves of an `abstract` tree split."""
  groups: dict[str, list[tuple[str, Any]]] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    axes = ', '.join(str(a or '-') for a in leaf.sharding.spec)
    groups.setdefault(axes or 'replicated', []).append((path_name(path), leaf))
  lines = [f'{"sharding":<24}{"leaves":>8}{"MiB/device":>12}  largest']
  for axes, leaves in groups.items():
    largest = max(leaves, key=lambda item: math.prod(item[1].shape))
    size = sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
      for _, leaf in leaves
    )
    lines.append(
      f'{axes:<24}{len(leaves):>8}{size / 2**20:>12.2f}  '
      f'{largest[0]} {largest[1].shape}'
    )
  return '\n'.join(lines)


def parameter_table(params: Any, depth: int = 3) -> str:
  """Returns the number of parameters below each module, and in all.

  Args:
    params: {loss name: tree} of arrays or shapes.
    depth: path components that are told apart.
  """
  rows: dict[str, list[int]] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    parts = path_name(path).split('/')
    row = rows.setdefault('/'.join(parts[:-1][:depth]), [0, 0])
    row[0] += 1
    row[1] += math.prod(leaf.shape)
  rows['total'] = [sum(r[i] for r in rows.values()) for i in (0, 1)]
  width = max(len(name) for name in rows) + 2
  lines = [f'{"module":<{width}}{"leaves":>8}{"parameters":>14}']
  lines += [f'{n:<{width}}{k:>8}{v:>14,}' for n, (k, v) in rows.items()]
  return '\n'.join(lines)
