"""Values that are computed once and reused over the steps of a sampler."""

from collections.abc import Callable
from typing import TypeVar

from flax import linen as nn


T = TypeVar('T')  # an array or a tree of arrays

COLLECTION = 'cache'


def cached(module: nn.Module, name: str, fn: Callable[[], T]) -> T:
  """Returns fn(), or what an earlier call with a mutable cache stored of it.

  Gates and cross-attention keys depend on the condition alone, so a sampler
  applies the network once with `mutable=['cache']` and afterwards passes the
  result as the collection 'cache': the values are then read, fn is not traced.

  Args:
    module: the bound module that owns the value.
    name: the value's name in the module's part of the collection.
    fn: computes the value, an array or a tree of arrays. It may call
      submodules of `module`.
  """
  # `init` makes every collection mutable; a cache is no part of a fresh model.
  if module.is_initializing():
    return fn()
  if module.is_mutable_collection(COLLECTION):
    value = fn()
    module.put_variable(COLLECTION, name, value)
    return value
  if module.has_variable(COLLECTION, name):
    return module.get_variable(COLLECTION, name)
  return fn()
