"""How often the loops of a compiled program run.

XLA writes the count of most loops into the text on CPUs and GPUs, on TPUs not.
There the scalars that the condition depends on are evaluated, one iteration
after the other, until it is false.
"""

from collections.abc import Callable
from collections.abc import Mapping
import math
import operator
import re

from pyramid_jax.planning import hlo


# Values of a computation's parameter: by the place in its tuple, or None where
# the parameter is one scalar; by number of the parameter first.
Known = dict[tuple[int, int | None], int]

MAX_TRIPS = 100_000  # of those that are evaluated
_SAME = frozenset(
  {'bitcast', 'convert', 'copy', 'copy-done', 'copy-start', 'reshape'}
)
_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
  'EQ': operator.eq,
  'NE': operator.ne,
  'LT': operator.lt,
  'LE': operator.le,
  'GT': operator.gt,
  'GE': operator.ge,
}
_COMPUTE: Mapping[str, Callable[..., int]] = {
  'add': operator.add,
  'and': operator.and_,
  'divide': lambda a, b: int(a / b) if b else 0,
  'maximum': max,
  'minimum': min,
  'multiply': operator.mul,
  'not': lambda a: int(not a),
  'or': operator.or_,
  'remainder': lambda a, b: int(math.fmod(a, b)) if b else 0,
  'select': lambda a, b, c: b if a else c,
  'subtract': operator.sub,
}


def value(
  module: hlo.Module, place: hlo.Computation, name: str, known: Known
) -> int | None:
  """Returns the value of an integer scalar, None if it is not known.

  Args:
    module: the program.
    place: a computation.
    name: an instruction of it.
    known: of the computation's parameters.
  """
  instruction = place.instructions[name]
  opcode, operands = instruction.opcode, instruction.operands
  if opcode == 'constant':
    return _constant(instruction.arguments)
  if opcode == 'parameter':
    return known.get((int(instruction.arguments), None))
  if opcode == 'get-tuple-element':
    source = place.instructions[operands[0]]
    index = int(instruction.attribute('index'))
    if source.opcode == 'parameter':
      return known.get((int(source.arguments), index))
    return None
  if opcode in _SAME:
    return value(module, place, operands[0], known)
  if opcode == 'fusion' or opcode == 'call':
    inner = module.computations[instruction.called('calls', 'to_apply')[0]]
    given: Known = {
      (number, None): found
      for number, operand in enumerate(operands)
      if (found := value(module, place, operand, known)) is not None
    }
    return value(module, inner, inner.root.name, given)
  compute = _COMPUTE.get(opcode)
  if opcode == 'compare':
    compute = _COMPARE[instruction.attribute('direction')]
  if compute is None or not _is_whole(instruction):
    return None
  factors = [value(module, place, operand, known) for operand in operands]
  return None if None in factors else int(compute(*factors))


def _constant(text: str) -> int | None:
  if text in ('false', 'true'):
    return int(text == 'true')
  return int(text) if re.fullmatch(r'-?\d+', text) else None


def _is_whole(instruction: hlo.Instruction) -> bool:
  """Whether the result is an integer or a truth value, and a scalar."""
  (result,) = instruction.arrays
  return result.size == 1 and result.dtype[0] in 'psu'


def inputs(
  module: hlo.Module,
  place: hlo.Computation,
  loop: hlo.Instruction,
  known: Known,
) -> dict[int, int]:
  """Returns the scalars with which a loop begins, by place in its tuple."""
  (start,) = place.operands(loop)
  while start.opcode in ('copy', 'bitcast', 'opt-barrier'):
    (start,) = place.operands(start)
  if start.opcode != 'tuple':
    return {}
  values = (
    value(module, place, name, known) if _is_scalar(place, name) else None
    for name in start.operands
  )
  return {i: x for i, x in enumerate(values) if x is not None}


def _is_scalar(place: hlo.Computation, name: str) -> bool:
  found = place.instructions[name].arrays
  return len(found) == 1 and not found[0].dims


def invariant(module: hlo.Module, loop: hlo.Instruction) -> set[int]:
  """Returns the places in a loop's tuple that no iteration changes."""
  body = module.computations[loop.called('body')[0]]
  kept = set()
  for index, name in enumerate(_results(body)):
    source = body.instructions[name]
    while source.opcode in ('bitcast', 'copy'):
      (source,) = body.operands(source)
    if source.opcode == 'get-tuple-element' and index == int(
      source.attribute('index')
    ):
      (origin,) = body.operands(source)
      if origin.opcode == 'parameter':
        kept.add(index)
  return kept


def trips(
  module: hlo.Module, loop: hlo.Instruction, start: Mapping[int, int]
) -> int | None:
  """Returns how often a loop runs, None if that is not known.

  Args:
    module: the program.
    loop: a `while` of it.
    start: the scalars with which it begins (`inputs`).
  """
  written = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
  if written:
    return int(written[1])
  test = module.computations[loop.called('condition')[0]]
  body = module.computations[loop.called('body')[0]]
  results = _results(body)
  needed = _needed(test, {test.root.name})
  if not results:
    return None
  while True:
    more = needed | _needed(body, {results[i] for i in needed})
    if more == needed:
      break
    needed = more
  now = {i: start[i] for i in needed if i in start}
  for count in range(MAX_TRIPS):
    known: Known = {(0, i): x for i, x in now.items()}
    goes_on = value(module, test, test.root.name, known)
    if goes_on is None:
      return None
    if not goes_on:
      return count
    found = {i: value(module, body, results[i], known) for i in needed}
    now = {i: x for i, x in found.items() if x is not None}
  return None


def _results(body: hlo.Computation) -> tuple[str, ...]:
  """Returns the instructions whose results an iteration hands on."""
  return body.root.operands if body.root.opcode == 'tuple' else ()


def _needed(place: hlo.Computation, names: set[str]) -> set[int]:
  """Returns the places in the parameter's tuple that instructions depend on."""
  seen: set[str] = set()
  found: set[int] = set()
  while names:
    seen |= names
    instructions = [place.instructions[name] for name in names]
    for instruction in instructions:
      if instruction.opcode == 'get-tuple-element':
        (source,) = place.operands(instruction)
        if source.opcode == 'parameter':
          found.add(int(instruction.attribute('index')))
    names = {name for i in instructions for name in i.operands} - seen
  return found
