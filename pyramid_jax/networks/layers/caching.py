"""Values that are computed once and reused over the steps of a sampler."""

from collections.abc import Callable
from typing import TypeVar

from flax import linen as nn


T = TypeVar('T')  # an array or a tree of arrays

COLLECTION = 'cache'


def cached(module: nn.Module, name: str, fn: Callable[[], T]) -> T:
  """Returns fn(), or what an earlier call with a mutable cache stored of it.

  Gates and cross-attention keys depend on the condition alone: a sampler
  applies the network once with `mutable=['cache']` and then passes the result
  as the collection 'cache'; the values are read and fn is not traced. The
  bound module owns the value under this name; fn may call its submodules.
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
