"""The text of a compiled program (`compiled.as_text()`), read into objects.

The text is XLA's HLO after all optimizations, for one device of a mesh. A
module has computations, of which one is the entry; a computation has
instructions in the order in which they are scheduled. The syntax is that of
openxla/xla: xla/hlo/parser/hlo_parser.cc.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import math
import re


_NAME = r'[\w.\-]+'
_COMPUTATION = re.compile(rf'^(ENTRY )?%?({_NAME}) .*\{{$')
_INSTRUCTION = re.compile(rf'^\s+(ROOT )?%?({_NAME}) = (.*)$')
_OPERAND = re.compile(rf'%({_NAME})')
_ARRAY = re.compile(r'([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')
_PARTITIONS = re.compile(r'num_partitions=(\d+)')
_CLOSING = {'(': ')', '{': '}'}
# Bits of the element types whose names do not end in them.
_BITS = {'pred': 8, 'token': 0, 'opaque': 0}


@dataclasses.dataclass(frozen=True, slots=True)
class Array:
  """The type and the place of an array."""

  dtype: str  # as XLA names it: 'bf16', 'f32', 's32', 'pred'
  dims: tuple[int, ...]
  layout: str  # what stands in braces: '1,0:T(8,128)(2,1)S(1)'

  @property
  def size(self) -> int:
    """The number of elements."""
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    """The bytes of its elements."""
    return -(-self.size * _bits(self.dtype) // 8)

  @property
  def stored_bytes(self) -> int:
    """The bytes that it takes in memory, where tiles are filled up."""
    tile = re.search(r':T\(([\d,]+)\)', self.layout)
    if tile is None or not self.dims:
      return self.bytes
    order = [int(i) for i in self.layout.partition(':')[0].split(',')]
    sides = [int(side) for side in tile[1].split(',')]
    padded = [self.dims[axis] for axis in order]  # the minor dimension first
    for i, side in enumerate(reversed(sides[-len(padded) :])):
      padded[i] = -(-padded[i] // side) * side
    return -(-math.prod(padded) * _bits(self.dtype) // 8)

  @property
  def space(self) -> int:
    """The number of the memory where it lies; 0 is the main one."""
    found = re.search(r'S\((\d+)\)', self.layout)
    return int(found[1]) if found else 0

  def __str__(self) -> str:
    return f'{self.dtype}[{",".join(map(str, self.dims))}]'


def _bits(dtype: str) -> int:
  found = re.match(r'[a-z]+(\d+)', dtype)
  return _BITS[dtype] if dtype in _BITS else int(found[1]) if found else 0


@functools.lru_cache(maxsize=100_000)
def arrays(shape: str) -> tuple[Array, ...]:
  """Returns the arrays of a shape; those of a tuple in order, flattened."""
  found = _ARRAY.findall(shape)
  return tuple(
    Array(dtype, tuple(int(n.strip('<=')) for n in dims.split(',') if n), rest)
    for dtype, dims, rest in found
  )


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
  """One operation of a computation."""

  name: str
  shape: str  # of its result
  opcode: str
  arguments: str  # what stands in parentheses
  attributes: str  # what follows them
  is_root: bool

  @property
  def arrays(self) -> tuple[Array, ...]:
    """The arrays of its result."""
    return arrays(self.shape)

  @property
  def operands(self) -> tuple[str, ...]:
    """The names of the instructions whose results it takes."""
    return tuple(_OPERAND.findall(self.arguments))

  def attribute(self, name: str) -> str:
    """Returns the value of an attribute as text, '' if it has none."""
    at = f', {self.attributes}'.find(f', {name}=')
    if at < 0:
      return ''
    start = at + len(name) + 1
    if self.attributes[start : start + 1] in _CLOSING:
      return self.attributes[start : _end(self.attributes, start)]
    return re.split(r'[,\s]', self.attributes[start:], maxsplit=1)[0]

  def called(self, *attributes: str) -> list[str]:
    """Returns the computations that attributes name, in order."""
    found = []
    for name in attributes:
      text = self.attribute(name)
      found += re.findall(_NAME, text.replace('%', ' ')) if text else []
    return found

  @property
  def op_name(self) -> str:
    """The path of the function of JAX that it comes from, '' if unknown."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ''


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions by name, in the order of the text."""

  name: str
  instructions: Mapping[str, Instruction]

  @functools.cached_property
  def root(self) -> Instruction:
    """The instruction whose result is that of the computation."""
    return next(i for i in self.instructions.values() if i.is_root)

  @functools.cached_property
  def parameters(self) -> dict[int, Instruction]:
    """Its parameters by number."""
    return {
      int(i.arguments): i
      for i in self.instructions.values()
      if i.opcode == 'parameter'
    }

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    """The instructions that take the result of one, by its name."""
    found: dict[str, list[Instruction]] = {}
    for instruction in self.instructions.values():
      for name in set(instruction.operands):
        found.setdefault(name, []).append(instruction)
    return found

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """Returns the instructions whose results one takes."""
    return [self.instructions[name] for name in instruction.operands]


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program."""

  computations: Mapping[str, Computation]
  entry: Computation
  partitions: int  # devices that run it
  is_tiled: bool  # whether arrays have tiles, as those of a TPU
  is_final: bool  # whether its instructions are scheduled: nothing follows


def parse(text: str) -> Module:
  """Reads the text of a compiled program.

  Raises:
    ValueError: it has no entry computation.
  """
  computations: dict[str, Computation] = {}
  entry = None
  for name, is_entry, lines in _blocks(text):
    found = (_instruction(line) for line in lines)
    computation = Computation(name, {i.name: i for i in found if i})
    computations[name] = computation
    entry = computation if is_entry else entry
  if entry is None:
    raise ValueError(f'no HLO module with an ENTRY: {text[:80]!r}')
  partitions = _PARTITIONS.search(text.partition('\n')[0])
  return Module(
    computations=computations,
    entry=entry,
    partitions=int(partitions[1]) if partitions else 1,
    is_tiled=':T(' in text,
    is_final='is_scheduled=true' in text.partition('\n')[0],
  )


def _blocks(text: str) -> Iterator[tuple[str, bool, list[str]]]:
  """Yields (name, whether it is the entry, lines) of each computation."""
  name, is_entry = '', False
  lines: list[str] | None = None
  for line in text.splitlines():
    if lines is None:
      head = _COMPUTATION.match(line)
      if head and '->' in line:
        name, is_entry, lines = head[2], bool(head[1]), []
    elif line.startswith('}'):
      yield name, is_entry, lines
      lines = None
    else:
      lines.append(line)


def _instruction(line: str) -> Instruction | None:
  head = _INSTRUCTION.match(line)
  if head is None:
    return None
  rest = head[3]
  end = _end(rest, 0) if rest.startswith('(') else rest.index(' ')
  opcode = _OPCODE.match(rest, end)
  if opcode is None:
    raise ValueError(f'no operation in the line of HLO {line.strip()[:80]!r}')
  close = _end(rest, opcode.end() - 1)
  return Instruction(
    name=head[2],
    shape=rest[:end],
    opcode=opcode[1],
    arguments=rest[opcode.end() : close - 1],
    attributes=rest[close:].lstrip(', '),
    is_root=bool(head[1]),
  )


def _end(text: str, start: int) -> int:
  """Returns the place after the bracket that closes the one at `start`."""
  opening, closing = text[start], _CLOSING[text[start]]
  depth, at = 0, start
  for found in re.compile(rf'["{re.escape(opening + closing)}]').finditer(
    text, start
  ):
    if found.start() < at:
      continue  # within a string
    if found[0] == '"':
      at = _string_end(text, found.start())
      continue
    depth += 1 if found[0] == opening else -1
    if not depth:
      return found.end()
  raise ValueError(f'{opening} is not closed in {text[start : start + 80]!r}')


def _string_end(text: str, start: int) -> int:
  """Returns the place after a string in quotes."""
  found = re.compile(r'"(?:[^"\\]|\\.)*"').match(text, start)
  return found.end() if found else len(text)
