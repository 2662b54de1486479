"""Parameters without tracing what draws them, until they are drawn.

flax traces the initialiser of every parameter whenever a network is applied,
to compare the shapes, and whenever it is initialised. That is most of the time
that tracing a network takes, and most traces never run: they are asked for
shapes alone, or what is not needed is left out of them. Here a drawing is one
operation of the trace, which is unfolded when it is compiled or run.
"""

from typing import Any

from flax.core import scope
import jax
from jax.extend import core
from jax.interpreters import batching
from jax.interpreters import mlir
import jax.numpy as jnp
import numpy as np

from pyramid_jax.distributed import initial


_param = scope.Scope.param
_drawing = core.Primitive('drawing')


def install() -> None:
  """Defers drawings, and compares parameters with the shapes asked for."""
  scope.Scope.param = _quick


def _quick(self, name, init_fn, *args, **kwargs):
  given = kwargs.keys() - {'unbox'}
  if given or not args or not isinstance(args[0], tuple):
    return _param(self, name, init_fn, *args, **kwargs)
  shape, dtype = (*args, float)[:2]
  if self.has_variable('params', name):
    value = self.get_variable('params', name)
    if isinstance(value, jax.Array | np.ndarray) and value.shape == shape:
      self.reserve(name, 'params')
      return value
  elif self.is_mutable_collection('params'):
    self.reserve(name, 'params')
    aval = jax.core.ShapedArray(shape, jax.dtypes.canonicalize_dtype(dtype))
    draw = lambda key: init_fn(key, *args)
    value = _drawing.bind(self.make_rng('params'), draw=draw, aval=aval)
    self.put_variable('params', name, value)
    return value
  return _param(self, name, init_fn, *args, **kwargs)


def _batched(args: Any, axes: Any, *, draw: Any, aval: Any) -> Any:
  del aval
  return jax.vmap(draw, in_axes=axes)(*args), 0


_drawing.def_abstract_eval(lambda key, *, draw, aval: aval)
_drawing.def_impl(
  lambda key, *, draw, aval: jnp.asarray(initial.evaluate(draw, key))
)
mlir.register_lowering(
  _drawing,
  mlir.lower_fun(lambda key, *, draw, aval: draw(key), multiple_results=False),
)
batching.primitive_batchers[_drawing] = _batched
