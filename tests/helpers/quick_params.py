"""Parameters without tracing what draws them, where shapes are all that counts.

flax traces the initialiser of every parameter whenever a network is applied,
to compare the shapes, which is most of the time that tracing a network takes.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

from flax.core import scope
import jax
import jax.numpy as jnp
import numpy as np


_param = scope.Scope.param


def install() -> None:
  """Lets flax compare a parameter with the shape asked of its initialiser."""
  scope.Scope.param = _given


def zeros() -> Any:
  """Returns a context in which new parameters are zeros.

  No function may be jitted within it that is called outside too.
  """
  return mock.patch.object(scope.Scope, 'param', _made)


def shapes(function: Callable[..., Any], *args: Any) -> Any:
  """Returns `jax.eval_shape(function, *args)`, where parameters draw nothing.

  Args:
    function: makes parameters, the `init` of a network for instance.
    *args: trees of arrays or of shapes.
  """
  with zeros():
    return jax.eval_shape(function, *args)


def _given(self, name, init_fn, *args, **kwargs):
  if _asks_for_shape(args) and self.has_variable('params', name):
    value = self.get_variable('params', name)
    if isinstance(value, jax.Array | np.ndarray) and value.shape == args[0]:
      self.reserve(name, 'params')
      return value
  return _param(self, name, init_fn, *args, **kwargs)


def _made(self, name, init_fn, *args, **kwargs):
  is_new = not self.has_variable('params', name)
  if is_new and _asks_for_shape(args) and self.is_mutable_collection('params'):
    shape, dtype = (*args, float)[:2]
    self.reserve(name, 'params')
    self.put_variable('params', name, jnp.zeros(shape, dtype))
    return self.get_variable('params', name)
  return _given(self, name, init_fn, *args, **kwargs)


def _asks_for_shape(args):
  return bool(args) and isinstance(args[0], tuple)
