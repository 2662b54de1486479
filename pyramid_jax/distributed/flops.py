"""Floating-point operations of a traced function, whatever compiles it.

Another measure of products and convolutions, such as the bytes that they read
and write, may take the place of their operations.

Counted are products and convolutions: two operations for each multiplication.
All else (norms, activations, look-ups) is below the resolution of a peak rate.
A scan counts as often as it runs, a branch as its largest, a `while` once,
because nobody knows how often it runs; a function that is recomputed in the
backward pass (`jax.checkpoint`) counts once.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import contextvars
import dataclasses
import functools
import math
from typing import Any

import jax
from jax.interpreters import partial_eval
import jax.numpy as jnp


Flags = tuple[bool, ...]
# What an equation that multiplies costs in the forward pass; the gradient by
# each of its sides costs as much.
Measure = Callable[[Any], int]
_FUSED = ('pallas_call', 'dot_product_attention_fwd_wrapper')


def operations(eqn: Any) -> int:
  """Returns the operations of a product, a convolution or a kernel."""
  return 2 * _MULTIPLICATIONS[eqn.primitive.name](eqn)


def count(
  function: Callable[..., Any], *args: Any, measure: Measure = operations
) -> int:
  """Returns the operations of one call of a function.

  Args:
    function: is traced, never run.
    *args: its arguments, or their shapes; trees.
    measure: is counted.
  """
  with _measured(measure):
    return _plain(_traced(function, *args)[0])


def of_training(
  losses: Callable[..., tuple[Mapping[str, jax.Array], Any]],
  params: Mapping[str, Any],
  *args: Any,
  measure: Measure = operations,
) -> int:
  """Returns the operations that a step of training needs, without any twice.

  A product costs once in the forward pass, and once more for each of its two
  sides that has a gradient. So what is trained costs three times its forward
  pass (the first layer, which needs no gradient by its input, twice), a frozen
  network that a gradient passes through (a perceptual loss) twice, and a frozen
  one without a gradient (an encoder) once. Each loss is differentiated by the
  parameters of its name alone. The optimizer is not counted.

  Args:
    losses: (params, *args) -> ({loss name: scalar}, what else it computes); is
      traced, never run.
    params: {loss name: tree of arrays or shapes}.
    *args: the other arguments of `losses`, or their shapes.
    measure: is counted.
  """
  jaxpr, outputs = _traced(losses, params, *args)
  values, _ = outputs
  of_name = _names(params, jaxpr.invars)
  with _measured(measure):
    total = _plain(jaxpr)
    for place, name in enumerate(sorted(values)):  # as jax orders a dictionary
      trained = tuple(n == name for n in of_name)
      wanted = tuple(i == place for i in range(len(jaxpr.outvars)))
      total += _of(jaxpr, trained, wanted).backward
  return total


_MEASURE = contextvars.ContextVar[Measure]('measure')


@contextlib.contextmanager
def _measured(measure: Measure) -> Iterator[None]:
  """Lets `_of` know what to count and what it has, until the count is done."""
  token = _MEASURE.set(measure)
  try:
    yield
  finally:
    _MEASURE.reset(token)
    _of.cache_clear()


def _names(params: Mapping[str, Any], inputs: Sequence[Any]) -> list[str]:
  """Returns the loss name of each input, '' of those that are no parameter."""
  found = []
  for name in sorted(params):
    found += [name] * len(jax.tree.leaves(params[name]))
  return found + [''] * (len(inputs) - len(found))


def _traced(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
  """Returns the jaxpr without what changes no output, and the outputs."""
  closed, outputs = jax.make_jaxpr(function, return_shape=True)(*args)
  jaxpr, _ = partial_eval.dce_jaxpr(
    closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True
  )
  return jaxpr, outputs


def _none(variables: Sequence[Any]) -> Flags:
  return (False,) * len(variables)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
  """The measure of a program, and how gradients pass through it."""

  forward: int
  backward: int
  active: Flags  # outputs that depend on what is trained
  needed: Flags  # inputs whose gradient is needed


@functools.cache
def _of(jaxpr: Any, active: Flags, wanted: Flags) -> _Work:
  """Returns the work of a jaxpr.

  Args:
    jaxpr: without constants, or closed.
    active: of each input, whether it depends on what is trained.
    wanted: of each output, whether its gradient is needed if it is active.
  """
  jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)
  is_active = dict(zip(jaxpr.invars, active, strict=True))
  read = lambda atom: _is_variable(atom) and is_active.get(atom, False)
  forward = 0
  for eqn in jaxpr.eqns:
    flags = tuple(map(read, eqn.invars))
    work = _of_equation(eqn, flags, _none(eqn.outvars))
    forward += work.forward
    for variable, flag in zip(eqn.outvars, work.active, strict=True):
      is_active[variable] = flag and _is_real(variable)
  needed = {
    v: True for v, w in zip(jaxpr.outvars, wanted, strict=True) if w and read(v)
  }
  backward = 0
  for eqn in reversed(jaxpr.eqns if needed else ()):
    outputs = tuple(needed.get(v, False) for v in eqn.outvars)
    if any(outputs):
      work = _of_equation(eqn, tuple(map(read, eqn.invars)), outputs)
      backward += work.backward
      for atom, flag in zip(eqn.invars, work.needed, strict=True):
        if flag and read(atom):
          needed[atom] = True
  return _Work(
    forward=forward,
    backward=backward,
    active=tuple(map(read, jaxpr.outvars)),
    needed=tuple(needed.get(v, False) for v in jaxpr.invars),
  )


def _is_variable(atom: Any) -> bool:
  return not hasattr(atom, 'val')  # a literal has one


def _is_real(variable: Any) -> bool:
  dtype = getattr(variable.aval, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def _of_equation(eqn: Any, active: Flags, wanted: Flags) -> _Work:
  """Returns the work of one operation; flags as those of `_of`."""
  name = eqn.primitive.name
  if name in _RULES:
    return _RULES[name](eqn, active, wanted)
  inner = list(programs(eqn.params))
  if len(inner) == 1 and _is_call(eqn, inner[0]):
    return _of(inner[0], active, wanted)
  work = sum(_plain(program) for program in inner)
  return _opaque(eqn, active, wanted, work, work * sum(active))


def _opaque(
  eqn: Any, active: Flags, wanted: Flags, forward: int, backward: int
) -> _Work:
  """Returns the work of an operation whose outputs depend on all inputs."""
  return _Work(
    forward=forward,
    backward=backward if any(wanted) else 0,
    active=(any(active),) * len(eqn.outvars),
    needed=active if any(wanted) else _none(active),
  )


def _is_call(eqn: Any, program: Any) -> bool:
  """Whether an operation just runs a program: its arguments are its inputs."""
  jaxpr = getattr(program, 'jaxpr', program)
  shapes = lambda variables: [getattr(v.aval, 'shape', ()) for v in variables]
  return shapes(jaxpr.invars) == shapes(eqn.invars) and (
    shapes(jaxpr.outvars) == shapes(eqn.outvars)
  )


def programs(params: Mapping[str, Any]) -> Iterator[Any]:
  """Yields the programs that an operation runs."""
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if hasattr(item, 'jaxpr') or hasattr(item, 'eqns'):
        yield item


def _plain(program: Any) -> int:
  """Returns the measure of a forward pass."""
  jaxpr = getattr(program, 'jaxpr', program)
  return _of(jaxpr, _none(jaxpr.invars), _none(jaxpr.outvars)).forward


def _multiplied(eqn: Any, active: Flags, wanted: Flags) -> _Work:
  """A product: by each active side there is another one in its gradient."""
  work = _MEASURE.get()(eqn)
  return _opaque(eqn, active, wanted, work, work * sum(active))


def _fused(eqn: Any, active: Flags, wanted: Flags) -> _Work:
  """A kernel of attention: both products have a gradient on both sides."""
  work = _MEASURE.get()(eqn)
  return _opaque(eqn, active, wanted, work, 2 * work)


def _of_product(eqn: Any) -> int:
  (contracted, _), _ = eqn.params['dimension_numbers']
  sides = eqn.invars[0].aval.shape
  return eqn.outvars[0].aval.size * math.prod(sides[a] for a in contracted)


def _of_convolution(eqn: Any) -> int:
  kernel = eqn.invars[1].aval.shape
  out_axis = eqn.params['dimension_numbers'].rhs_spec[0]
  work = eqn.outvars[0].aval.size * math.prod(kernel) // kernel[out_axis]
  # Between the values of a dilated input are zeros.
  return work // math.prod(eqn.params['lhs_dilation'])


def _of_kernel(eqn: Any) -> int:
  """One of attention."""
  if eqn.params.get('cost_estimate') is not None:
    return eqn.params['cost_estimate'].flops // 2
  if 'grid_mapping' in eqn.params:
    grid = math.prod(eqn.params['grid_mapping'].grid)
    return grid * _plain(eqn.params['jaxpr']) // 2
  # cuDNN's: q (B, T, H, D), k (B, S, H, D)
  b, t, h, d = eqn.invars[0].aval.shape
  return 2 * b * t * eqn.invars[1].aval.shape[1] * h * d


_MULTIPLICATIONS: Mapping[str, Callable[[Any], int]] = {
  'conv_general_dilated': _of_convolution,
  'dot_general': _of_product,
  **dict.fromkeys(_FUSED, _of_kernel),
}


def _stopped(eqn: Any, active: Flags, wanted: Flags) -> _Work:
  del active, wanted
  return _Work(
    forward=0,
    backward=0,
    active=_none(eqn.outvars),
    needed=_none(eqn.invars),
  )


def _sharded(eqn: Any, active: Flags, wanted: Flags) -> _Work:
  """A program of every device, with its part of the arrays."""
  devices = eqn.params['mesh'].size
  work = _of(eqn.params['jaxpr'], active, wanted)
  return dataclasses.replace(
    work, forward=devices * work.forward, backward=devices * work.backward
  )


def _loop(eqn: Any, active: Flags, wanted: Flags) -> _Work:
  """A `while` has no gradient in reverse mode."""
  programs = eqn.params['cond_jaxpr'], eqn.params['body_jaxpr']
  work = sum(_plain(program) for program in programs)
  return dataclasses.replace(_stopped(eqn, active, wanted), forward=work)


def _branches(eqn: Any, active: Flags, wanted: Flags) -> _Work:
  found = [_of(b, active[1:], wanted) for b in eqn.params['branches']]
  either = lambda flags: tuple(map(any, zip(*flags, strict=True)))
  return _Work(
    forward=max(work.forward for work in found),
    backward=max(work.backward for work in found),
    active=either(work.active for work in found),
    needed=(False, *either(work.needed for work in found)),
  )


def _scan(eqn: Any, active: Flags, wanted: Flags) -> _Work:
  """What is carried is active or needed once it is at any step."""
  consts, carry = eqn.params['num_consts'], eqn.params['num_carry']
  body, length = eqn.params['jaxpr'], eqn.params['length']
  while True:
    work = _of(body, active, wanted)
    carried = active[consts : consts + carry]
    grown = tuple(map(max, carried, work.active[:carry]))
    asked = tuple(map(max, wanted[:carry], work.needed[consts:][:carry]))
    asked = asked if any(wanted) else wanted[:carry]
    if grown == carried and asked == wanted[:carry]:
      break
    active = (*active[:consts], *grown, *active[consts + carry :])
    wanted = (*asked, *wanted[carry:])
  return dataclasses.replace(
    work, forward=length * work.forward, backward=length * work.backward
  )


_RULES: Mapping[str, Callable[[Any, Flags, Flags], _Work]] = {
  'cond': _branches,
  'conv_general_dilated': _multiplied,
  'dot_general': _multiplied,
  'scan': _scan,
  'shard_map': _sharded,
  'stop_gradient': _stopped,
  'while': _loop,
  **dict.fromkeys(_FUSED, _fused),
}
