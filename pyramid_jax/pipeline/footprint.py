"""How much memory sampling takes at least, known before it starts."""

from collections.abc import Iterable
from collections.abc import Iterator
import math
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
import numpy as np

from pyramid_jax.distributed import memory
from pyramid_jax.distributed import mesh as mesh_lib


def check(
  program: Any, arguments: Iterable[Any], mesh: Mesh, size: int
) -> None:
  """Compares a program with the memory of the devices.

  What it returns must fit; its largest array, which a compiler may avoid, is
  a warning.

  Args:
    program: a function of arrays, traced and not compiled.
    arguments: those for one image, arrays or shapes; results have one row.
    mesh: the devices, which share the images.
    size: how many images are made at a time.

  Raises:
    OutOfMemory: the results alone need more than there is.
  """
  there = memory.available(mesh)
  if there is None:
    return
  rows = -(-size // mesh_lib.batch_parts(mesh))
  traced = jax.make_jaxpr(program)(*arguments)
  results = rows * sum(_bytes(x) for x in traced.out_avals)
  if results > there:
    raise memory.OutOfMemory(results, there)
  largest = rows * max(_arrays(traced.jaxpr), default=0)
  if largest > there:
    logging.warning(
      'sampling %d images at a time needs an array of %.1f GB on a device,'
      ' which has %.1f GB; a smaller sample.batch_size or shape needs less',
      *(rows, largest / 1e9, there / 1e9),
    )


def _arrays(jaxpr: Any) -> Iterator[int]:
  """Yields the bytes of all that a program computes, inner programs too."""
  for equation in jaxpr.eqns:
    yield from (_bytes(out.aval) for out in equation.outvars)
    for inner in _inner(equation.params.values()):
      yield from _arrays(inner)


def _inner(values: Iterable[Any]) -> Iterator[Any]:
  for value in values:
    if isinstance(value, list | tuple):
      yield from _inner(value)
    elif hasattr(value, 'eqns'):
      yield value
    elif hasattr(value, 'jaxpr'):
      yield value.jaxpr


def _bytes(aval: Any) -> int:
  if not hasattr(aval, 'shape'):
    return 0
  kind = getattr(aval, 'dtype', None)
  width = kind.itemsize if isinstance(kind, np.dtype) else 8  # of keys
  return math.prod(aval.shape) * width
