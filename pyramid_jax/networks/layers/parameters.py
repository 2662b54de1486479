"""Parameters of a module, read without tracing how they are initialised."""

from collections.abc import Callable
import contextvars
from typing import Any

from flax import errors
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np


# Whether only shapes are wanted, and whether in the element types in use.
_SHAPES = contextvars.ContextVar('shapes', default=False)
_IN_USE = contextvars.ContextVar('in_use', default=False)


def shapes_of(
  init: Callable[..., Any], *args: Any, in_use: bool = False
) -> Any:
  """Returns `jax.eval_shape(init, *args)` of an `init` of networks, sooner.

  How parameters are drawn is not traced.

  Args:
    init: traceable.
    *args: of `init`.
    in_use: whether the element types are those in which layers use their
      parameters (`get`), instead of those that are trained.
  """
  tokens = _SHAPES.set(True), _IN_USE.set(in_use)
  try:
    return jax.eval_shape(init, *args)
  finally:
    _SHAPES.reset(tokens[0])
    _IN_USE.reset(tokens[1])


def get(
  module: nn.Module,
  name: str,
  init: nn.initializers.Initializer,
  shape: tuple[int, ...],
  used: jnp.dtype = jnp.float32,
) -> jax.Array:
  """Returns `module.param(name, init, shape)`.

  That traces `init` in every call, to compare shapes: a third of the time that
  a network takes to trace. Here the shape is compared with the one given.

  Args:
    module: whose parameter it is.
    name: its name in the module.
    init: draws it.
    shape: its shape.
    used: the element type that all uses convert it to, if that is a short one.

  Raises:
    ScopeParamShapeError: the value that is there has another shape.
  """
  if not module.has_variable('params', name):
    drawn = nn.initializers.zeros if _SHAPES.get() else init
    kind = (used,) if _IN_USE.get() else ()
    return module.param(name, drawn, shape, *kind)
  value: Any = module.get_variable('params', name)
  if np.shape(value) != tuple(shape):
    path = '/'.join(module.path)
    raise errors.ScopeParamShapeError(name, path, np.shape(value), shape)
  return value
