"""The operations behind many values, done with few values alive.

A jaxpr computes all of its results in one order and keeps all. Here each result
is asked for, its operations are done, and it is handed over before the next; a
value is dropped with its last use. Results that share a large value, such as a
parameter and its average, follow each other, so that it does not wait for them.
"""

from collections import Counter
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

from jax.extend import core
import numpy as np


# Primitives that hold a jaxpr and just run it.
CALLS = ('jit', 'pjit', 'remat2', 'checkpoint', 'closed_call')
_LARGE = 1 << 16  # bytes of a value that should not wait


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
  """An equation of a jaxpr; values have numbers."""

  primitive: Any
  params: Mapping[str, Any]
  dtype: Any  # of the first result
  inputs: tuple[int, ...]
  results: tuple[int, ...]
  joins: tuple[int, ...]  # those of `inputs` that are large


class Graph:
  """All operations of a jaxpr, those of the jaxprs inside of it included.

  Attributes:
    operations: in an order in which they can be done.
    outputs: the numbers of the results.
    known: values that are there from the beginning, by number.
  """

  def __init__(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]):
    """Numbers the values of a jaxpr, given its constants and arguments."""
    self._numbers = itertools.count()
    self.operations: list[Operation] = []
    self.known: dict[int, Any] = {}
    inputs = [self._new(value) for value in args]
    self.outputs = self._add(jaxpr, consts, inputs)

  def _new(self, value: Any) -> int:
    number = next(self._numbers)
    self.known[number] = value
    return number

  def _add(
    self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[int]
  ) -> list[int]:
    """Appends the operations of a jaxpr; returns the numbers of its results."""
    numbers: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, const in zip(jaxpr.constvars, consts, strict=True):
      numbers[var] = self._new(const)

    def number(atom: Any) -> int:
      if isinstance(atom, core.Literal):
        aval: Any = atom.aval
        return self._new(np.asarray(atom.val, aval.dtype))
      return numbers[atom]

    for eqn in jaxpr.eqns:
      given = [number(atom) for atom in eqn.invars]
      if eqn.primitive.name in CALLS:
        inner = eqn.params['jaxpr']
        plain = getattr(inner, 'jaxpr', inner)
        made = self._add(plain, getattr(inner, 'consts', ()), given)
      elif not eqn.outvars:  # nothing but an effect
        continue
      else:
        made = [next(self._numbers) for _ in eqn.outvars]
        pairs = zip(given, eqn.invars, strict=True)
        self.operations.append(
          Operation(
            primitive=eqn.primitive,
            params=eqn.params,
            dtype=eqn.outvars[0].aval.dtype,
            inputs=tuple(given),
            results=tuple(made),
            joins=tuple(i for i, atom in pairs if _is_large(atom)),
          )
        )
      numbers.update(zip(eqn.outvars, made, strict=True))
    return [number(atom) for atom in jaxpr.outvars]


def _is_large(atom: Any) -> bool:
  size = getattr(atom.aval.dtype, 'itemsize', 0)  # keys have none
  return int(np.prod(atom.aval.shape)) * size >= _LARGE


def evaluate(
  graph: Graph,
  apply: Callable[[Operation, Sequence[Any]], Sequence[Any]],
  finish: Callable[[int, Any], None],
) -> None:
  """Does the operations of a graph, once.

  Args:
    graph: its known values are used up.
    apply: returns the results of an operation of given inputs.
    finish: takes the place of a result among all, and the result.
  """
  makers = {
    result: i for i, op in enumerate(graph.operations) for result in op.results
  }
  uses = _uses(graph, makers)
  values, done = graph.known, set()

  def used(numbers: Sequence[int]) -> None:
    for number in numbers:
      uses[number] -= 1
      if not uses[number]:
        del values[number]

  def do(index: int) -> None:
    op = graph.operations[index]
    done.add(index)
    found = apply(op, [values[i] for i in op.inputs])
    for number, value in zip(op.results, found, strict=True):
      if uses[number]:
        values[number] = value
    used(op.inputs)

  for place in _order(graph, makers):
    number = graph.outputs[place]
    todo = [] if number in values else [makers[number]]
    while todo:
      index = todo.pop()
      if index in done:
        continue
      inputs = graph.operations[index].inputs
      if before := [makers[i] for i in inputs if i not in values]:
        todo += [index, *before]
      else:
        do(index)
    finish(place, values[number])
    used([number])


def _uses(graph: Graph, makers: Mapping[int, int]) -> Counter[int]:
  """Returns how often each value is used for the results."""
  uses = Counter(graph.outputs)
  todo = [makers[i] for i in graph.outputs if i in makers]
  seen: set[int] = set()
  while todo:
    index = todo.pop()
    if index in seen:
      continue
    seen.add(index)
    inputs = graph.operations[index].inputs
    uses.update(inputs)
    todo += [makers[i] for i in inputs if i in makers]
  return uses


def _order(graph: Graph, makers: Mapping[int, int]) -> list[int]:
  """Returns the places of the results; those of shared values together."""
  groups: dict[int, int] = {}

  def group(number: int) -> int:
    while (above := groups.get(number, number)) != number:
      groups[number] = groups.get(above, above)
      number = above
    return number

  for op in graph.operations:
    for number in (*op.joins, *op.results[1:]):
      groups[group(number)] = group(op.results[0])
  first: dict[int, int] = {}
  for place, number in enumerate(graph.outputs):
    first.setdefault(group(number), place)
  places = range(len(graph.outputs))
  return sorted(places, key=lambda x: (first[group(graph.outputs[x])], x))
