"""The collectives that the sharding of a program needs at the least.

Weights that are split over `fsdp` are gathered where they are used, once in
the forward pass and once in the backward pass, in the type of activations.
Gradients are summed in float32. They are scattered over the devices that update
a part of a weight each, which then give the new values of it to those that have
more of the weight (`training.step`); those that every device updates as a whole
are summed over all. Microbatches repeat what is not kept between them: gathered
weights and scattered gradients. Frozen weights that are split are gathered once
for each microbatch. What `tensor` needs depends on the network and is not
counted, nor is what an optimizer of whole matrices exchanges (`training.muon`).
A sampler whose weights are replicated needs none.
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
from pyramid_jax.distributed import sharding
from pyramid_jax.planning import hlo
from pyramid_jax.planning.collectives import Collective
from pyramid_jax.planning.program import Program


DATA, FSDP, TENSOR = placement.AXES
_GRADIENT_BYTES = 4  # of a value, float32
# Smaller arrays are losses, norms and the like.
_LEAST_BYTES = 2**20


def of_training(
  params: Any,
  updated: Any,
  frozen: Any,
  mesh: Mesh,
  dtype: str,
  microbatches: int = 1,
) -> dict[str, int]:
  """Returns the bytes that a training step exchanges at the least, by kind.

  Args:
    params: trained weights, abstract arrays with their shardings.
    updated: the same, with the shardings in which they are updated.
    frozen: weights that it only reads (`read`), with their shardings.
    mesh: the devices.
    dtype: of activations.
    microbatches: over which gradients are accumulated.
  """
  width = jnp.dtype(dtype).itemsize
  chips = mesh.shape[DATA] * mesh.shape[FSDP]
  total: Counter[str] = Counter()
  pairs = zip(jax.tree.leaves(params), jax.tree.leaves(updated), strict=True)
  for leaf, part in pairs:
    size, own, parts = (
      _gathered(leaf),
      _own(leaf),
      _gathered(leaf) // _own(part),
    )
    gradient = size * _GRADIENT_BYTES
    if own < size:
      total['all-gather'] += 2 * size * width * microbatches
    if own > _own(part):
      total['all-gather'] += own * _GRADIENT_BYTES
    if parts > 1:
      total['reduce-scatter'] += gradient * microbatches
    if parts < chips:
      total['all-reduce'] += gradient // parts
  for leaf in jax.tree.leaves(frozen):
    if _own(leaf) < _gathered(leaf):
      bytes_ = min(width, leaf.dtype.itemsize)
      total['all-gather'] += _gathered(leaf) * bytes_ * microbatches
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


def _own(leaf: jax.ShapeDtypeStruct) -> int:
  """Returns the values of an array that a chip has."""
  return math.prod(leaf.sharding.shard_shape(leaf.shape))


def _gathered(leaf: jax.ShapeDtypeStruct) -> int:
  """Returns the values of an array that a chip uses, its share of `tensor`."""
  sizes, axes = leaf.sharding.mesh.shape, sharding.axes_of(leaf.sharding.spec)
  return leaf.size // (sizes[TENSOR] if TENSOR in axes else 1)


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
  """Yields the numbers of values that weights, layers and shares have.

  An exchange over one axis of a mesh after the other has shares along one
  dimension in between.
  """
  for leaf in leaves:
    shard = leaf.sharding.shard_shape(leaf.shape)
    pairs = zip(leaf.shape, shard, strict=True)
    parts = [whole // own if own else 1 for whole, own in pairs]
    for share in (1, *parts, math.prod(parts)):
      yield leaf.size // share
      if leaf.ndim:
        yield leaf.size // share // leaf.shape[0]
