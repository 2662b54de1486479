"""The time that a program needs at the least, by the rates of its chips.

Three times are found apart: of its products at the chip's peak rate, of its
traffic with the main memory at the bandwidth, and of its collectives over the
links. If all three overlap, a step takes as long as the longest of them
(`slowest`); if none do, as long as their sum (`total`). What truly passes lies
between, or above where a chip does not reach its rates.

A collective of n chips, whose array has b bytes, takes over rings and switches
that send r bytes/s from each chip
  all-gather, reduce-scatter, collective-broadcast  (n - 1) / n * b / r
  all-reduce                                        twice as long
  all-to-all      (n - 1) / n * b / r through a switch, b * n / (4 r) on a ring
  collective-permute    b / r through a switch, 2 b / r on a ring, where all go
                        one way
(jax-ml/scaling-book: sharding.md). A group that spans several slices or nodes
does so within each first, and then each chip with those of the other slices
that have the same part, over the network.
"""

from collections import Counter
from collections.abc import Iterable
import dataclasses
from typing import Any

from pyramid_jax.distributed import chips
from pyramid_jax.planning.collectives import Collective
from pyramid_jax.planning.collectives import Group
from pyramid_jax.planning.program import Program


_HALF = frozenset({'bf16', 'f16'})


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a device is."""

  slice: int  # of TPUs, or the node of a GPU
  coords: tuple[int, ...] = ()  # in the torus of its slice


def places(devices: Iterable[Any]) -> tuple[Place, ...]:
  """Returns where the devices of a mesh are, in the order of the mesh.

  Those of a topology that is only described serve too
  (`jax.experimental.topologies`).
  """
  return tuple(
    Place(
      getattr(device, 'slice_index', None) or 0,
      tuple(getattr(device, 'coords', ())),
    )
    for device in devices
  )


def nodes(count: int, gpus: int) -> tuple[Place, ...]:
  """Returns the places of the GPUs of several nodes, node after node."""
  return tuple(Place(node) for node in range(count) for _ in range(gpus))


@dataclasses.dataclass(frozen=True)
class Network:
  """The links between the devices of a mesh."""

  links: chips.Links
  places: tuple[Place, ...]  # by the device's place in the mesh

  def seconds(self, collective: Collective) -> float:
    """Returns how long a collective takes."""
    there = Counter(self.places[i].slice for i in collective.group)
    slices, inside = len(there), max(there.values())
    size, far = collective.bytes, self.links.far
    if collective.kind == 'collective-permute':
      step = self.links.near / (2 if self.links.wraps else 1)
      return size / (far if slices > 1 else step)
    outside = (slices - 1) / slices
    if collective.kind == 'all-to-all':
      return self._spread(collective.group, size) + outside * size / far
    turns = 2 if collective.kind == 'all-reduce' else 1
    near = (inside - 1) / inside * size / self._rate(collective.group)
    return turns * (near + outside * size / inside / far)

  def _rate(self, group: Group) -> float:
    """Returns what a chip of a group sends within its slice, in bytes/s.

    The axes of a torus along which the group extends work at once.
    """
    rates = [rate for _, rate in self._axes(group)]
    return sum(rates) if rates else self.links.near

  def _axes(self, group: Group) -> list[tuple[int, float]]:
    """Returns (length, bytes/s) of the axes of a torus that a group spans.

    An axis that is no ring has two ends, which send one way alone.
    """
    if not self.links.wraps:
      return []
    first = self.places[group[0]].slice
    slice_ = [p.coords for p in self.places if p.slice == first]
    members = [self.places[i] for i in group]
    coords = [p.coords for p in members if p.slice == first]
    found = []
    for axis in range(len(coords[0])):
      length = len({place[axis] for place in coords})
      whole = len({place[axis] for place in slice_})
      is_ring = length == whole and length % self.links.wraps == 0
      if length > 1:
        found.append((length, self.links.near / (1 if is_ring else 2)))
    return found

  def _spread(self, group: Group, size: float) -> float:
    """Returns how long an all-to-all takes within a slice."""
    first = self.places[group[0]].slice
    inside = sum(self.places[i].slice == first for i in group)
    axes = self._axes(group)
    if not axes:
      return (inside - 1) / inside * size / self.links.near
    return max(length * size / (4 * rate) for length, rate in axes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seconds:
  """How long the parts of a program take on a chip, each by itself."""

  compute: float
  memory: float
  interconnect: float

  @classmethod
  def of(
    cls, program: Program, chip: chips.Chip, network: Network
  ) -> 'Seconds':
    """Returns the times of a program.

    Args:
      program: for one chip.
      chip: that runs it.
      network: with which chips exchange.
    """
    return cls(
      compute=sum(
        count / _peak(chip, dtype)
        for dtype, count in program.flops_by_dtype.items()
      ),
      memory=program.hbm_bytes / chip.bandwidth,
      interconnect=sum(map(network.seconds, program.collectives)),
    )

  @property
  def bound(self) -> str:
    """The part that takes longest: its name."""
    return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]

  @property
  def slowest(self) -> float:
    """The time if all parts overlap."""
    return max(self.compute, self.memory, self.interconnect)

  @property
  def total(self) -> float:
    """The time if no parts overlap."""
    return self.compute + self.memory + self.interconnect

  def mfu_ceiling(self, model_flops: float, peak: float) -> float:
    """Returns the model FLOP utilization if all parts overlap.

    Args:
      model_flops: of one chip; operations of the mathematics
        (`training/model_flops`).
      peak: FLOP/s of the chip for the type of activations.
    """
    return model_flops / peak / self.slowest

  def mfu_floor(self, model_flops: float, peak: float) -> float:
    """Returns the model FLOP utilization if no parts overlap.

    Args:
      model_flops: of one chip.
      peak: FLOP/s of the chip for the type of activations.
    """
    return model_flops / peak / self.total


def _peak(chip: chips.Chip, dtype: str) -> float:
  """Returns the FLOP/s of products of factors of a type of XLA."""
  return chip.peak('bfloat16' if dtype in _HALF else 'float32')
