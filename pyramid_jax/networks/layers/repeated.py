"""Blocks in a row; equal ones can be one loop of the program.

A network of 24 blocks is traced and compiled 24 times over, though all of them
do the same with other weights. In a loop they are one block, whatever the
depth. Parameters keep their names: they are stacked in the program, not in
their tree, which is one more copy of the weights of a loop.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp


# (module, i, carry, x) -> (carry, y), by the child of the module that has the
# i-th name.
Step = Callable[[Any, int, Any, Any], tuple[Any, Any]]


def run(
  module: nn.Module,
  step: Step,
  names: Sequence[str],
  carry: Any,
  xs: Sequence[Any] | None = None,
  *,
  least: int,
) -> tuple[Any, list[Any]]:
  """Takes a carry through blocks, and returns it with the y of each.

  Every block of a loop has its own key for dropout, but another than the block
  alone has.

  Args:
    module: the parent of the blocks, within its own call.
    step: applies a block. What it does for children whose variables have the
      same shapes is the same, and its carry keeps shape and type there.
    names: of the blocks, in their order.
    carry: a tree of arrays.
    xs: one tree for each block; None for none.
    least: how many equal blocks in a row are one `lax.scan`; 0 for no number.
  """
  xs = [None] * len(names) if xs is None else xs
  ys: list[Any] = []
  for places in _runs(module, names, xs):
    if least and len(places) >= least:
      stacked = _stack([xs[i] for i in places])
      carry, y = _scan(module, step, places, names, carry, stacked)
      ys += _unstack(y, len(places))
      continue
    for i in places:
      carry, y = step(module, i, carry, xs[i])
      ys.append(y)
  return carry, ys


def _runs(
  module: nn.Module, names: Sequence[str], xs: Sequence[Any]
) -> Iterator[list[int]]:
  """Yields the places of blocks that follow each other and are equal.

  Before there are variables every block is one by itself.
  """
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  variables = {} if module.is_initializing() else module.variables
  kinds = [
    (
      {c: shapes(tree[name]) for c, tree in variables.items() if name in tree},
      shapes(x),
    )
    for name, x in zip(names, xs, strict=True)
  ]
  places: list[int] = []
  for i, kind in enumerate(kinds):
    if places and not (kind[0] and kind == kinds[places[-1]]):
      yield places
      places = []
    places.append(i)
  yield places


def _scan(
  module: nn.Module,
  step: Step,
  places: Sequence[int],
  all_names: Sequence[str],
  carry: Any,
  xs: Any,
) -> tuple[Any, Any]:
  """Returns what `run` does for the equal blocks at some places.

  The loop sees the first of them alone, with the variables of each in turn; xs
  and ys are stacked.
  """
  names = [all_names[i] for i in places]
  first = names[0]

  def stack(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {
      collection: {first: _stack([tree[name] for name in names])}
      for collection, tree in variables.items()
      if first in tree
    }

  def unstack(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {
      collection: dict(
        zip(names, _unstack(tree[first], len(names)), strict=True)
      )
      for collection, tree in variables.items()
      if first in tree
    }

  scanned = nn.scan(
    lambda module, carry, x: step(module, places[0], carry, x),
    variable_axes={True: 0},
    split_rngs={True: True},
    length=len(names),
  )
  mapped = nn.map_variables(scanned, True, stack, unstack, mutable=True)
  return mapped(module, carry, xs)


def _stack(trees: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstack(tree: Any, count: int) -> list[Any]:
  return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]
