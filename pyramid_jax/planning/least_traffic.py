"""The bytes between chips and their memory that a program needs at the least.

Each product and each convolution reads its two sides and writes its result
once, as do those of its gradients; attention does not write its logits. All
else (norms, activation functions, sums) can be a part of these, so it moves
nothing. The state of a training step is read and written once. Each device has
its share of the batch, and all of a weight while it uses it.
"""

from collections.abc import Iterable
from typing import Any

import jax

from pyramid_jax.distributed import flops


def measure(weights: Any, parts: int) -> flops.Measure:
  """Returns the function by which `flops` counts bytes of one device.

  Args:
    weights: trees of all arrays that are weights; others are activations.
    parts: into which the batch is split.
  """
  known = frozenset(_sizes(jax.tree.leaves(weights)))

  def of(eqn: Any) -> int:
    arrays = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    if _is_of_attention(eqn):
      arrays.remove(max(arrays, key=lambda x: x.size))  # the logits
    return sum(_bytes(x) // (1 if x.size in known else parts) for x in arrays)

  return of


def _sizes(leaves: Iterable[Any]) -> Iterable[int]:
  """Yields the numbers of values of weights, and of their layers in scans."""
  for leaf in leaves:
    yield leaf.size
    if leaf.ndim > 2:
      yield leaf.size // leaf.shape[0]


def _is_of_attention(eqn: Any) -> bool:
  """Whether an equation is a product of two arrays that have a batch each."""
  if eqn.primitive.name != 'dot_general':
    return False
  _, (batch, _) = eqn.params['dimension_numbers']
  return bool(batch)


def _bytes(x: Any) -> int:
  return x.size * x.dtype.itemsize
