"""What a plan warns of: values on every device, and lanes that stay empty."""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

import jax
from jax.sharding import Mesh

from pyramid_jax import placement
from pyramid_jax.distributed import flops
from pyramid_jax.distributed import sharding
from pyramid_jax.planning import collectives


LANES = 128  # the width of the matrix units and of vector registers
_SHOWN = 3  # examples in a line
_MIB = 2**20
# A share of the operations below which a line is not worth reading.
_LEAST_SHARE = 0.05
_LEAST_FILLED = 0.9
_MOST_BYTES = 1.1  # of the least that a kind of collectives needs


def of_leaves(trees: Any, mesh: Mesh, min_size: int) -> Iterator[str]:
  """Warns of large arrays that every device has whole.

  Args:
    trees: abstract arrays with shardings.
    mesh: the devices.
    min_size: of values, from which on an array should be split.
  """
  axes = ('fsdp', placement.TENSOR)
  ways = math.prod(mesh.shape[axis] for axis in axes)
  found = {
    name: leaf.size * leaf.dtype.itemsize
    for name, leaf in sharding.leaves(trees).items()
    if leaf.size >= min_size and leaf.sharding.is_fully_replicated
  }
  size = sum(found.values())
  if not found:
    return
  if ways == 1:
    if mesh.size > 1 and size >= 2**30:
      yield (
        f'every chip has all of {_gib(size)} GiB: config.mesh.fsdp splits it'
      )
    return
  largest = sorted(found, key=lambda name: -found[name])
  yield (
    f'no rule splits {len(found)} arrays, {size / _MIB:.0f} MiB on every chip:'
    f' {_some(f"{name} {found[name] / _MIB:.0f} MiB" for name in largest)}'
  )


def of_collectives(excess: Sequence[collectives.Collective]) -> Iterator[str]:
  """Warns of what chips exchange though no sharding of weights needs it.

  Args:
    excess: `minimum.excess`.
  """
  size = sum(c.bytes for c in excess)
  if excess:
    examples = (
      f'{c.kind} {c.example} x {c.group_size} ({c.where})' for c in excess
    )
    yield (
      f'chips exchange activations, {_gib(size)} GiB on every chip:'
      f' {_some(examples)}'
    )


def of_minimum(found: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
  """Warns of kinds of collectives that move more than the sharding needs.

  Weights that are used at several places are exchanged for each of them.

  Args:
    found: by kind, `bytes` and `minimum_bytes`.
  """
  for kind, numbers in found.items():
    size, least = numbers['bytes'], numbers['minimum_bytes']
    if least and size >= _MIB and size > _MOST_BYTES * least:
      yield (
        f'{kind}: {_gib(size)} GiB, {size / least:.2f} times what the sharding'
        ' of the weights needs'
      )


def of_products(traced: jax.stages.Traced) -> Iterator[str]:
  """Warns of products whose sides fill the lanes of a TPU badly.

  A side of 72 takes as long as one of 128.
  """
  total, narrow = Counter[int](), Counter[int]()
  for sides, work in _products(traced.jaxpr.jaxpr, 1):
    total[0] += work
    worst = min(sides, key=filled)
    if filled(worst) < _LEAST_FILLED:
      narrow[worst] += work
  for side, work in narrow.most_common(_SHOWN):
    share = work / total[0]
    if share >= _LEAST_SHARE:
      yield (
        f'{share:.0%} of the operations are products with a side of {side},'
        f' which fills {filled(side):.0%} of {LANES} lanes'
      )


def filled(side: int) -> float:
  """Returns the share of lanes that a side of a product fills."""
  return side / (-(-side // LANES) * LANES)


def _products(jaxpr: Any, count: int) -> Iterator[tuple[tuple[int, int], int]]:
  """Yields (contracted side, columns) and the work of the products.

  Of a convolution these are its channels.
  """
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name == 'dot_general':
      (contracted, _), (batch, _) = eqn.params['dimension_numbers']
      left, right = (v.aval.shape for v in eqn.invars)
      side = math.prod(left[axis] for axis in contracted)
      shared = math.prod(left[axis] for axis in batch)
      columns = math.prod(right) // (side * shared)
      yield (side, columns), count * eqn.outvars[0].aval.size * side
    elif name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval.shape
      spec = eqn.params['dimension_numbers'].rhs_spec
      channels, columns = kernel[spec[1]], kernel[spec[0]]
      work = eqn.outvars[0].aval.size * math.prod(kernel) // columns
      yield (channels, columns), count * work
    times = count * eqn.params['length'] if name == 'scan' else count
    for inner in flops.programs(eqn.params):
      yield from _products(getattr(inner, 'jaxpr', inner), times)


def _some(texts: Iterable[str]) -> str:
  """Returns the first of some texts, and how many more there are."""
  listed = list(texts)
  more = len(listed) - _SHOWN
  shown = ', '.join(listed[:_SHOWN])
  return f'{shown} and {more} more' if more > 0 else shown


def _gib(size: float) -> str:
  return f'{size / 2**30:.2f}'
