"""Parameters without tracing what draws them, where only shapes count.

flax traces the initialiser of every parameter whenever a network is applied,
to compare the shapes, which is most of the time that tracing a network takes.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import threading
from typing import Any

from flax.core import scope
import jax
import jax.numpy as jnp
import numpy as np


_param = scope.Scope.param
_thread = threading.local()


def install() -> None:
  """Compares parameters with the shapes that initialisers are asked for."""
  scope.Scope.param = _quick


@contextlib.contextmanager
def zeros() -> Iterator[None]:
  """Makes new parameters zeros in this thread, without drawing them."""
  before = getattr(_thread, 'zeros', False)
  _thread.zeros = True
  try:
    yield
  finally:
    _thread.zeros = before


def shapes(function: Callable[..., Any], *args: Any) -> Any:
  """Returns `jax.eval_shape(function, *args)`, where parameters draw nothing.

  jax remembers what it traced by the function, so a new one is traced here:
  the zeros must not be found again where values are drawn.

  Args:
    function: makes parameters, the `init` of a network for instance.
    *args: trees of arrays or of shapes.
  """
  with zeros():
    return jax.eval_shape(lambda *args: function(*args), *args)


def _quick(self, name, init_fn, *args, **kwargs):
  if not args or not isinstance(args[0], tuple):
    return _param(self, name, init_fn, *args, **kwargs)
  if self.has_variable('params', name):
    value = self.get_variable('params', name)
    if isinstance(value, jax.Array | np.ndarray) and value.shape == args[0]:
      self.reserve(name, 'params')
      return value
  elif getattr(_thread, 'zeros', False) and self.is_mutable_collection(
    'params'
  ):
    shape, dtype = (*args, float)[:2]
    self.reserve(name, 'params')
    self.put_variable('params', name, jnp.zeros(shape, dtype))
    return self.get_variable('params', name)
  return _param(self, name, init_fn, *args, **kwargs)
