"""The collectives that the sharding of a program needs at the least.

Weights that are split over `fsdp` are gathered where they are used, once in
the forward pass and once in the backward pass, in the type of activations.
Their gradients are summed in float32 and scattered over `fsdp`, and what is
left is summed over `data`; gradients of replicated weights are summed over
both. Microbatches repeat what is not kept between them: gathered weights and
scattered gradients. Frozen weights that are split are gathered once for each
microbatch. What `tensor` needs depends on the network and is not counted, nor
is what an optimizer of whole matrices (Muon) gathers. A sampler whose weights
are replicated needs none.
"""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
import math
from typing import Any

import jax
from jax.interpreters import partial_eval
import jax.numpy as jnp
from jax.sharding import Mesh

from pyramid_jax import placement
from pyramid_jax.planning import hlo
from pyramid_jax.planning.collectives import Collective
from pyramid_jax.planning.program import Program


DATA, FSDP = placement.BATCH_AXES
_GRADIENT_BYTES = 4  # of a value, float32
# Smaller arrays are losses, norms and the like.
_LEAST_BYTES = 2**20


def of_training(
  params: Any, frozen: Any, mesh: Mesh, dtype: str, microbatches: int = 1
) -> dict[str, int]:
  """Returns the bytes that a training step exchanges at the least, by kind.

  Args:
    params: trained weights, abstract arrays with their shardings.
    frozen: weights that it only reads (`read`), with their shardings.
    mesh: the devices.
    dtype: of activations.
    microbatches: over which gradients are accumulated.
  """
  width = jnp.dtype(dtype).itemsize
  data, fsdp = mesh.shape[DATA], mesh.shape[FSDP]
  total: Counter[str] = Counter()
  for leaf in jax.tree.leaves(params):
    size = _gathered(leaf, mesh)
    gradient = size * _GRADIENT_BYTES
    if _is_split(leaf) and fsdp > 1:
      total['all-gather'] += 2 * size * width * microbatches
      total['reduce-scatter'] += gradient * microbatches
      if data > 1:
        total['all-reduce'] += gradient // fsdp
    elif data * fsdp > 1:
      total['all-reduce'] += gradient
  for leaf in jax.tree.leaves(frozen):
    if _is_split(leaf) and fsdp > 1:
      own = min(width, leaf.dtype.itemsize)
      total['all-gather'] += _gathered(leaf, mesh) * own * microbatches
  return dict(total)


def read(traced: jax.stages.Traced, before: Any, frozen: Any) -> list[Any]:
  """Returns those of the frozen weights that a program reads.

  Of a first stage, a training step reads the encoder alone.

  Args:
    traced: the program.
    before: its arguments before the weights, trees.
    frozen: the weights, the next argument, a tree.
  """
  jaxpr = traced.jaxpr.jaxpr
  wanted = [True] * len(jaxpr.outvars)
  _, is_read = partial_eval.dce_jaxpr(jaxpr, wanted)
  leaves = jax.tree.leaves(frozen)
  first = len(jax.tree.leaves(before))
  flags = is_read[first : first + len(leaves)]
  return [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]


def _axes(leaf: jax.ShapeDtypeStruct) -> Iterator[str]:
  """Yields the axes of the mesh over which an array is split."""
  for entry in leaf.sharding.spec:
    yield from (entry,) if isinstance(entry, str) else entry or ()


def _is_split(leaf: jax.ShapeDtypeStruct) -> bool:
  return FSDP in _axes(leaf)


def _gathered(leaf: jax.ShapeDtypeStruct, mesh: Mesh) -> int:
  """Returns the values of an array that a chip uses, its share of `tensor`."""
  parts = [mesh.shape[axis] for axis in _axes(leaf) if axis != FSDP]
  return leaf.size // math.prod(parts)


def excess(
  program: Program, weights: Any, least_bytes: int = _LEAST_BYTES
) -> tuple[Collective, ...]:
  """Returns the collectives that no sharding of weights needs, largest first.

  They move arrays that have the size of no weight, of none of its layers (a
  weight of a scan has them along its first axis), and of none of their shares:
  activations. Whatever moves between chips in an all-to-all or a permutation
  is one.

  Args:
    program: compiled.
    weights: abstract arrays with their shardings, trained or frozen.
    least_bytes: collectives of fewer bytes are left out.
  """
  known = set(_sizes(jax.tree.leaves(weights)))
  found = (
    c
    for c in program.collectives
    if c.bytes >= least_bytes and not _is_of_weights(c, known)
  )
  return tuple(sorted(found, key=lambda c: -c.bytes))


def _is_of_weights(collective: Collective, known: set[int]) -> bool:
  (array,) = hlo.arrays(collective.example)
  if collective.kind == 'all-gather':
    return array.size * collective.group_size in known
  return (
    collective.kind in ('all-reduce', 'reduce-scatter') and array.size in known
  )


def _sizes(leaves: Iterable[jax.ShapeDtypeStruct]) -> Iterator[int]:
  """Yields the numbers of values that weights, layers and shares have."""
  for leaf in leaves:
    share = math.prod(leaf.sharding.shard_shape(leaf.shape))
    for size in (leaf.size, share):
      yield size
      if leaf.ndim:
        yield size // leaf.shape[0]
