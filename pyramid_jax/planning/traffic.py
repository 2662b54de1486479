"""The bytes that an instruction moves between a chip and its main memory.

An instruction reads its operands and writes its result. A fusion does so as a
whole, and what happens inside stays on the chip. A slice or a look-up reads
what it takes, an update in place writes what it changes. What names, groups or
reinterprets values (bitcast, tuple, parameter, constant) moves nothing, nor
does what a TPU keeps in another memory: arrays of the layout `S(1)` are in the
vector memory.
"""

from collections.abc import Iterable

from pyramid_jax.planning import collectives
from pyramid_jax.planning import hlo


_NOTHING = frozenset(
  {
    'add-dependency',
    'after-all',
    'bitcast',
    'call',
    'conditional',
    'constant',
    'domain',
    'get-dimension-size',
    'get-tuple-element',
    'opt-barrier',
    'parameter',
    'partition-id',
    'replica-id',
    'tuple',
    'while',
  }
)
_NO_TRAFFIC_CALLS = ('AllocateBuffer', 'ConcatBitcast', 'AsyncCollective')
# What computes an element of its result from the same element of its operands:
# within a fusion, what nobody uses is not computed.
_ELEMENTWISE = frozenset({
  'abs', 'add', 'and', 'bitcast', 'bitcast-convert', 'clamp', 'compare',
  'convert', 'copy', 'divide', 'exponential', 'exponential-minus-one', 'log',
  'log-plus-one', 'logistic', 'maximum', 'minimum', 'multiply', 'negate',
  'not', 'or', 'power', 'reshape', 'rsqrt', 'select', 'sqrt', 'subtract',
  'tanh', 'transpose', 'tuple',
})  # fmt: skip
_SLICES = frozenset({'dynamic-slice', 'gather', 'slice'})
# What changes an operand in place -> the place of the new values.
_UPDATES = {'dynamic-update-slice': 1, 'scatter': 2}
_HOST = 5  # the memory space of the host, behind PCIe


def of(
  module: hlo.Module, place: hlo.Computation, instruction: hlo.Instruction
) -> float:
  """Returns the bytes that an instruction of a computation moves.

  What a loop, a call or a branch runs is not included.
  """
  opcode = instruction.opcode
  if opcode in _NOTHING or opcode.endswith(('-done', '-update')):
    return 0
  if opcode == 'async-start':  # what it wraps is executed
    return 0
  target = instruction.attribute('custom_call_target').strip('"')
  if target.startswith(_NO_TRAFFIC_CALLS):
    return 0
  operands = place.operands(instruction)
  if opcode == 'fusion':
    inner = module.computations[instruction.called('calls')[0]]
    return _of_fusion(module, inner, instruction, operands)
  shares = _shares(module, instruction, place, 1.0)
  read = sum(
    share * _total(module, operand.arrays)
    for operand, share in zip(operands, shares, strict=True)
  )
  return read + _written(module, place, instruction, instruction.arrays)


def _of_fusion(
  module: hlo.Module,
  inner: hlo.Computation,
  instruction: hlo.Instruction,
  operands: list[hlo.Instruction],
) -> float:
  """A fusion reads of its operands what its results need."""
  results = instruction.arrays
  if collectives.first_of_chains(inner):
    # It hands on its operands first, then what the later pieces fill.
    given = [array for operand in operands for array in operand.arrays]
    return _total(module, [*given, *results[len(given) :]])
  computed = {i.name for i in _outputs(inner) if i.opcode != 'parameter'}
  needed = _needed(module, inner, computed)
  total = 0.0
  for number, operand in enumerate(operands):
    name = inner.parameters[number].name
    total += needed.get(name, 0) * _total(module, operand.arrays)
  for source, array in zip(_outputs(inner), results, strict=False):
    total += _written(module, inner, source, (array,))
  return total


def _outputs(inner: hlo.Computation) -> list[hlo.Instruction]:
  """Returns the instructions that make the results of a fusion."""
  root = inner.root
  found = inner.operands(root) if root.opcode == 'tuple' else [root]
  return [_origin(inner, instruction) for instruction in found]


def _origin(
  place: hlo.Computation, instruction: hlo.Instruction
) -> hlo.Instruction:
  while instruction.opcode == 'bitcast':
    (instruction,) = place.operands(instruction)
  return instruction


def _written(
  module: hlo.Module,
  place: hlo.Computation,
  source: hlo.Instruction,
  results: tuple[hlo.Array, ...],
) -> float:
  """Returns the bytes written for results, given what makes them."""
  if source.opcode == 'parameter' or collectives.is_part_of_chain(source):
    return 0
  target = source.attribute('custom_call_target').strip('"')
  if target.startswith(_NO_TRAFFIC_CALLS):
    return 0
  if source.opcode in _UPDATES and _is_main(module, results[0]):
    (new,) = place.operands(source)[_UPDATES[source.opcode]].arrays
    return new.bytes
  if source.opcode.endswith('-start'):
    results = _results_of_start(place, source)
  return _total(module, results)


def _results_of_start(
  place: hlo.Computation, source: hlo.Instruction
) -> tuple[hlo.Array, ...]:
  """Returns the results of what begins here, without what it also hands on.

  The start of a copy has (result, operand, context), that of a slice and of
  most collectives (operands, results, context).
  """
  if source.opcode == 'copy-start':
    return source.arrays[:1]
  if source.opcode == 'all-reduce-start':
    return source.arrays
  count = sum(len(operand.arrays) for operand in place.operands(source))
  return source.arrays[count : 2 * count] or source.arrays


def _needed(
  module: hlo.Module, inner: hlo.Computation, results: set[str]
) -> dict[str, float]:
  """Returns which share of each value the results of a fusion need.

  Args:
    module: the program.
    inner: the computation of the fusion.
    results: what it computes: its outputs, but for parameters that it hands on
      as they are.
  """
  needed = dict.fromkeys(results, 1.0)
  for instruction in reversed(list(inner.instructions.values())):
    share = needed.get(instruction.name, 0)
    is_chain = collectives.is_part_of_chain(instruction)
    if not share or is_chain or instruction.opcode == 'parameter':
      continue
    shares = _shares(module, instruction, inner, share)
    for name, more in zip(instruction.operands, shares, strict=True):
      needed[name] = min(1.0, needed.get(name, 0) + more)
  return needed


def _shares(
  module: hlo.Module,
  instruction: hlo.Instruction,
  place: hlo.Computation,
  share: float,
) -> list[float]:
  """Returns which share of each operand a share of the result needs."""
  operands = place.operands(instruction)
  opcode = instruction.opcode.removesuffix('-start')
  whole = [1.0] * len(operands)
  if opcode in _ELEMENTWISE:
    return [share] * len(operands)
  if opcode in _SLICES:
    taken = arrays_size(_results_of_slice(place, instruction))
    part = taken / max(arrays_size(operands[0].arrays), 1)
    return [min(1.0, share * part), *whole[1:]]
  if opcode in _UPDATES:
    return [0.0, *whole[1:]]
  if opcode == 'fusion':
    inner = module.computations[instruction.called('calls')[0]]
    results = {source.name for source in _outputs(inner)}
    needed = _needed(module, inner, results)
    return [
      share * needed.get(inner.parameters[number].name, 0)
      for number in range(len(operands))
    ]
  return whole


def _results_of_slice(
  place: hlo.Computation, instruction: hlo.Instruction
) -> tuple[hlo.Array, ...]:
  if instruction.opcode.endswith('-start'):
    return _results_of_start(place, instruction)
  return instruction.arrays


def arrays_size(found: Iterable[hlo.Array]) -> int:
  """Returns the number of elements of arrays."""
  return sum(array.size for array in found)


def _is_main(module: hlo.Module, array: hlo.Array) -> bool:
  """Whether an array is in the chip's main memory."""
  return array.space == 0 if module.is_tiled else array.space != _HOST


def _total(module: hlo.Module, found: Iterable[hlo.Array]) -> float:
  return sum(a.stored_bytes for a in found if _is_main(module, a))
