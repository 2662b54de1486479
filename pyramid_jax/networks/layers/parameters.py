"""Parameters of a module, read without tracing how they are initialised."""

from typing import Any

from flax import errors
from flax import linen as nn
import jax
import numpy as np


def get(
  module: nn.Module,
  name: str,
  init: nn.initializers.Initializer,
  shape: tuple[int, ...],
) -> jax.Array:
  """Returns `module.param(name, init, shape)`.

  That traces `init` in every call, to compare shapes: a third of the time that
  a network takes to trace. Here the shape is compared with the one given.

  Raises:
    ScopeParamShapeError: the value that is there has another shape.
  """
  if not module.has_variable('params', name):
    return module.param(name, init, shape)
  value: Any = module.get_variable('params', name)
  if np.shape(value) != tuple(shape):
    path = '/'.join(module.path)
    raise errors.ScopeParamShapeError(name, path, np.shape(value), shape)
  return value
