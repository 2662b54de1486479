"""What one run of a compiled program costs a chip."""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses

from pyramid_jax.planning import collectives
from pyramid_jax.planning import hlo
from pyramid_jax.planning import loops
from pyramid_jax.planning import traffic
from pyramid_jax.planning import work
from pyramid_jax.planning.collectives import Collective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """The work of a compiled program on one chip, its loops multiplied."""

  # Of products and convolutions (`work`), by the type of their factors.
  flops_by_dtype: Mapping[str, int]
  hbm_bytes: float  # between the chip and its main memory (`traffic`)
  collectives: tuple[Collective, ...]
  partitions: int  # chips that run it
  unknown_loops: tuple[str, ...]  # how often they run is not known: once
  uncounted: tuple[str, ...]  # kernels whose work is not known: none

  @classmethod
  def of(cls, text: str) -> 'Program':
    """Reads the text of a compiled program, `compiled.as_text()`."""
    module = hlo.parse(text)
    total = _Walk(module).cost(module.entry, {})
    return cls(
      flops_by_dtype=dict(total.flops),
      hbm_bytes=total.hbm_bytes,
      collectives=tuple(_merged(total.collectives)),
      partitions=module.partitions,
      unknown_loops=tuple(sorted(total.unknown)),
      uncounted=tuple(sorted(total.uncounted)),
    )

  @property
  def flops(self) -> int:
    """Floating-point operations of products and convolutions."""
    return sum(self.flops_by_dtype.values())

  def by_kind(self) -> dict[str, tuple[int, int]]:
    """Returns {kind: (count, bytes)} of the collectives."""
    found: dict[str, tuple[int, int]] = {}
    for c in self.collectives:
      count, size = found.get(c.kind, (0, 0))
      found[c.kind] = (count + c.count, size + c.bytes)
    return found


def _merged(found: Iterable[Collective]) -> Iterator[Collective]:
  """Yields collectives, those that differ in nothing but numbers as one.

  The largest come first.
  """
  sums: dict[tuple, Collective] = {}
  for c in found:
    key = (c.kind, c.group, c.example, c.where)
    old = sums.get(key)
    if old is not None:
      c = dataclasses.replace(
        c, count=c.count + old.count, bytes=c.bytes + old.bytes
      )
    sums[key] = c
  yield from sorted(sums.values(), key=lambda c: -c.bytes)


@dataclasses.dataclass
class _Cost:
  """What a computation costs; sums grow in place."""

  flops: Counter[str] = dataclasses.field(default_factory=Counter)
  hbm_bytes: float = 0
  collectives: list[Collective] = dataclasses.field(default_factory=list)
  unknown: set[str] = dataclasses.field(default_factory=set)
  uncounted: set[str] = dataclasses.field(default_factory=set)

  def add(self, other: '_Cost', count: int = 1) -> None:
    """Adds what another computation costs that runs `count` times."""
    if not count:
      return
    self.flops.update({k: count * v for k, v in other.flops.items()})
    self.hbm_bytes += count * other.hbm_bytes
    self.collectives += [c.times(count) for c in other.collectives]
    self.unknown |= other.unknown
    self.uncounted |= other.uncounted


class _Walk:
  """The costs of the computations of a module, each found once."""

  def __init__(self, module: hlo.Module):
    self._module = module
    self._found: dict[tuple[str, frozenset], _Cost] = {}
    self._joined: dict[str, frozenset[str]] = {}

  def cost(self, place: hlo.Computation, known: loops.Known) -> _Cost:
    """Returns the cost of a computation that is run.

    Args:
      place: the computation.
      known: values of its parameter.
    """
    key = (place.name, frozenset(known.items()))
    if key not in self._found:
      total = _Cost()
      for instruction in place.instructions.values():
        self._add(total, place, instruction, known)
      self._found[key] = total
    return self._found[key]

  def _add(
    self,
    total: _Cost,
    place: hlo.Computation,
    instruction: hlo.Instruction,
    known: loops.Known,
  ) -> None:
    """Adds the cost of an instruction, and of what it runs."""
    module = self._module
    total.hbm_bytes += traffic.of(module, place, instruction)
    self._add_work(total, place, instruction)
    if instruction.opcode == 'while':
      self._add_loop(total, place, instruction, known)
    elif instruction.opcode == 'conditional':
      names = instruction.called(
        'branch_computations', 'true_computation', 'false_computation'
      )
      branches = (self.cost(module.computations[n], {}) for n in names)
      total.add(max(branches, key=lambda c: (c.flops.total(), c.hbm_bytes)))
    elif instruction.opcode in ('call', 'async-start'):
      for name in instruction.called('to_apply', 'calls'):
        total.add(self.cost(module.computations[name], {}))

  def _add_loop(
    self,
    total: _Cost,
    place: hlo.Computation,
    loop: hlo.Instruction,
    known: loops.Known,
  ) -> None:
    start = loops.inputs(self._module, place, loop, known)
    count = loops.trips(self._module, loop, start)
    if count is None:
      total.unknown.add(loop.op_name or loop.name)
    kept = loops.invariant(self._module, loop) & start.keys()
    inside: loops.Known = {(0, index): start[index] for index in kept}
    for name in loop.called('condition', 'body'):
      computation = self._module.computations[name]
      total.add(self.cost(computation, inside), 1 if count is None else count)

  def _add_work(
    self, total: _Cost, place: hlo.Computation, instruction: hlo.Instruction
  ) -> None:
    """Adds operations and collectives, those within a fusion too."""
    if instruction.opcode == 'fusion':
      (name,) = instruction.called('calls')
      inner = self._module.computations[name]
      for part in inner.instructions.values():
        self._add_work(total, inner, part)
      return
    found = work.of(place, instruction)
    if found is not None:
      total.flops[found.dtype] += found.flops
    elif work.is_opaque(instruction):
      total.uncounted.add(instruction.op_name or instruction.name)
    if collectives.is_counted(place, instruction):
      if place.name not in self._joined:
        self._joined[place.name] = collectives.joined(self._module, place)
      if instruction.name in self._joined[place.name]:
        return
      total.collectives += collectives.of(self._module, place, instruction)
