"""The collectives of a compiled program: what chips send to each other."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import itertools
import math
import re

import numpy as np

from pyramid_jax.planning import hlo


KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'collective-broadcast',
)
Group = tuple[int, ...]
# What hands all elements of a value on.
_RENAMES = frozenset(
  {'all-reduce-done', 'bitcast', 'convert', 'copy', 'reshape', 'transpose'}
)
_MESH = re.compile(
  r'mesh\[([^\]]*)\]'  # axes
  r'(?:, device_ids=\((.*?\]?(?:T\([\d,]*\))?)\))?'  # their order
  r' \{([^}]*)\}'  # axes of the group
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """An exchange of arrays between the chips of a group.

  Its bytes are those of the array as a whole: of the result of an all-gather,
  of what each chip gives to an all-reduce or a reduce-scatter, and of what each
  chip sends in an all-to-all or a permutation.
  """

  kind: str  # of KINDS
  count: int  # of arrays, in all runs
  bytes: int  # of all of them
  group: Group  # the chips of the first group, by their place in the mesh
  example: str  # an array that goes in: 'bf16[64,1024]'
  where: str  # the functions of JAX that it comes from

  @property
  def group_size(self) -> int:
    """How many chips exchange arrays."""
    return len(self.group)

  def times(self, count: int) -> 'Collective':
    """Returns it as part of a loop that runs `count` times."""
    return dataclasses.replace(
      self, count=count * self.count, bytes=count * self.bytes
    )


def kind_of(instruction: hlo.Instruction) -> str:
  """Returns the kind of a collective or of its start, '' of all else."""
  name = instruction.opcode.removesuffix('-start')
  return name if name in KINDS else ''


def of(
  module: hlo.Module, place: hlo.Computation, instruction: hlo.Instruction
) -> Iterator[Collective]:
  """Yields the exchanges of an instruction, one for each array.

  An all-reduce of which every user takes a slice counts as a reduce-scatter,
  and where the slice is larger than the share of a chip, as an all-reduce of
  the slice besides. The chips that scatter among themselves are then taken to
  be neighbors in the mesh.
  """
  kind = kind_of(instruction)
  group = first_group(instruction, kind, module.partitions)
  if len(group) < 2:
    return
  operands = place.operands(instruction)
  make = functools.partial(_collective, instruction, operands)
  if kind == 'collective-permute':
    yield make(0, kind, group)
  elif kind == 'all-to-all':  # an operand for each chip, or one for all
    yield make(0, kind, group, len(operands))
  elif kind == 'all-reduce':
    for index in range(len(operands)):
      result = None if len(operands) == 1 else index
      parts = _parts(module, place, instruction, result)
      parts, chips = math.gcd(parts, len(group)), tuple(sorted(group))
      if parts > 1:
        yield make(index, 'reduce-scatter', chips[:parts])
      if parts < len(group):
        yield make(index, kind, chips[::parts], 1 / parts)
  else:
    scale = len(group) if kind == 'all-gather' else 1
    for index in range(len(operands)):
      yield make(index, kind, group, scale)


def joined(module: hlo.Module, place: hlo.Computation) -> frozenset[str]:
  """Returns all-reduces whose results are added to those of others.

  In a program that has just been partitioned they are still to be one: XLA adds
  first, then reduces (AllReduceReassociate). So it is with the gradient of a
  weight that is used at several places.
  """
  if module.is_final:
    return frozenset()
  groups: dict[str, Group] = {}  # of sums over chips, and of sums of these
  last: dict[str, str] = {}  # the all-reduce that counts for a sum
  found = set()
  for name, instruction in place.instructions.items():
    operands = instruction.operands
    if instruction.opcode == 'all-reduce' and len(operands) == 1:
      groups[name] = first_group(instruction, 'all-reduce', module.partitions)
      last[name] = name
    elif instruction.opcode == 'add' and len(set(operands)) == 2:
      first, second = operands
      is_alone = all(len(place.users[x]) == 1 for x in operands)
      if is_alone and groups.get(first, ()) == groups.get(second):
        found.add(last[first])
        groups[name], last[name] = groups[first], last[second]
  return frozenset(found)


def _collective(
  instruction: hlo.Instruction,
  operands: list[hlo.Instruction],
  index: int,
  kind: str,
  group: Group,
  scale: float = 1,
) -> Collective:
  """Returns the exchange of an array, `scale` times as large as an operand."""
  operand = operands[index]
  (array,) = operand.arrays
  # That of a combined instruction has the names of all arrays.
  source = operand if len(operands) > 1 and operand.op_name else instruction
  return Collective(
    kind=kind,
    count=1,
    bytes=int(scale * array.bytes),
    group=group,
    example=str(array),
    where=source.op_name or source.name,
  )


def _parts(
  module: hlo.Module,
  place: hlo.Computation,
  instruction: hlo.Instruction,
  index: int | None,
) -> int:
  """Returns into how many slices a result is cut, 1 if it is used whole.

  Args:
    module: the program.
    place: a computation.
    instruction: whose result it is.
    index: which of its results, None if it has one.
  """
  if instruction.is_root:
    return 1
  found = []
  for user in place.users.get(instruction.name, ()):
    opcode = user.opcode
    if opcode == 'get-tuple-element':
      if index is None or int(user.attribute('index')) == index:
        found.append(_parts(module, place, user, None))
    elif opcode in _RENAMES:
      found.append(_parts(module, place, user, index))
    elif opcode == 'dynamic-slice' and user.operands[0] == instruction.name:
      (source,) = instruction.arrays
      found.append(source.size // user.arrays[0].size)
    elif opcode == 'fusion':
      inner = module.computations[user.called('calls')[0]]
      found += [
        _parts(module, inner, inner.parameters[number], None)
        for number, name in enumerate(user.operands)
        if name == instruction.name
      ]
    else:
      return 1
  return min(found, default=1)


def first_group(
  instruction: hlo.Instruction, kind: str, partitions: int
) -> Group:
  """Returns the first group of chips of a collective."""
  text = instruction.attributes
  if kind == 'collective-permute':
    return _cycle(instruction.attribute('source_target_pairs'))
  start = text.find('replica_groups=')
  return _first(text[start + len('replica_groups=') :], partitions)


def _first(text: str, partitions: int) -> Group:
  """Returns the first group of a list in one of the forms of XLA.

  {{0,1},{2,3}}; [2,2]<=[4] and [2,2]<=[2,2]T(1,0), the numbers below their
  product as an array that is transposed and reshaped to (groups, chips);
  mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, the axes of a mesh.
  """
  if listed := re.match(r'\{\{([\d,]*)\}', text):
    return tuple(_numbers(listed[1]))
  if iota := re.match(r'\[([\d,]+)\](<=\S+)', text):
    chips = _iota(iota[2].rstrip(','))
    return tuple(chips.reshape(_numbers(iota[1]))[0].tolist())
  if mesh := _MESH.match(text):
    return _of_mesh(mesh[1], mesh[2] or '', mesh[3])
  return tuple(range(partitions))  # {}: all


def _iota(text: str) -> np.ndarray:
  """Returns the numbers of '<=[2,4]T(1,0)', transposed."""
  found = re.match(r'(?:<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?', text)
  assert found is not None
  shape = _numbers(found[1])
  chips = np.arange(math.prod(shape)).reshape(shape)
  return chips.transpose(_numbers(found[2])) if found[2] else chips


def _of_mesh(axes: str, order: str, chosen: str) -> Group:
  """Returns the first group along axes of a mesh, or along parts of them."""
  sizes = {
    name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)
  }
  count = math.prod(sizes.values())
  chips = np.arange(count)
  if 'T(' in order:
    chips = _iota(order)
  elif order:
    chips = np.asarray(_numbers(order))
  chips = chips.reshape(tuple(sizes.values()))
  place: list[Iterable[int]] = [(0,)] * len(sizes)
  for name, before, size in re.findall(
    r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen
  ):
    whole = sizes[name]
    stride = whole // (int(before) * int(size)) if size else 1
    length = int(size) if size else whole
    place[list(sizes).index(name)] = range(0, stride * length, stride)
  return tuple(int(chips[index]) for index in itertools.product(*place))


def _cycle(pairs: str) -> Group:
  """Returns the chips that a permutation connects with the first."""
  steps = [tuple(map(int, p)) for p in re.findall(r'\{(\d+),(\d+)\}', pairs)]
  onward: Mapping[int, int] = dict(steps)  # type: ignore[arg-type]
  chips = [steps[0][0]] if steps else []
  while chips and onward.get(chips[-1], chips[0]) not in chips:
    chips.append(onward[chips[-1]])
  return tuple(chips)


def _numbers(text: str) -> list[int]:
  return [int(n) for n in re.findall(r'\d+', text)]


def is_part_of_chain(instruction: hlo.Instruction) -> bool:
  """Whether a collective runs within several fusions, one piece in each."""
  return bool(kind_of(instruction)) and 'chain_id=' in instruction.attributes


def first_of_chains(inner: hlo.Computation) -> list[hlo.Instruction]:
  """Returns the collectives that begin in a fusion and end in later ones."""
  found = inner.instructions.values()
  begins = any('AsyncCollectiveStart' in i.attributes for i in found)
  return [i for i in found if begins and is_part_of_chain(i)]


def is_counted(place: hlo.Computation, instruction: hlo.Instruction) -> bool:
  """Whether an instruction is a collective that is not counted elsewhere."""
  if is_part_of_chain(instruction):
    return instruction in first_of_chains(place)
  return bool(kind_of(instruction))
