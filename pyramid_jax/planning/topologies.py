"""The devices of accelerators that are not here, and meshes of them.

A topology is 'FAMILY:SIDES', such as v5e:16x16, v5p:4x4x4 or tpu7x:4x4x4 of TPU
chips; h100:8x4 is 8 GPUs a node and 4 nodes, for which CPU devices stand.

jax reads the variables of `environment` when it is loaded, and libtpu when it
is. So this module loads jax within its functions.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import MutableMapping
from collections.abc import Sequence
import dataclasses
import importlib.util
import itertools
import math
import os
import re
from typing import TYPE_CHECKING
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import names


if TYPE_CHECKING:
  import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """Chips of one kind.

  Attributes:
    kind: `jax.Device.device_kind`, a key of `distributed.chips.CHIPS`.
    dimensions: the number of sides of a topology.
    accelerator: how types of accelerators begin, '' for GPUs.
    counted: what the number of a type counts in a chip.
    devices: of jax, in a chip.
  """

  kind: str
  dimensions: int
  accelerator: str = ''
  counted: int = 1
  devices: int = 1


FAMILIES: Mapping[str, Family] = {
  'v5e': Family(kind='TPU v5 lite', dimensions=2, accelerator='v5litepod'),
  'v5p': Family(kind='TPU v5', dimensions=3, accelerator='v5p', counted=2),
  'v6e': Family(kind='TPU v6 lite', dimensions=2, accelerator='v6e'),
  'tpu7x': Family(
    kind='TPU7x', dimensions=3, accelerator='tpu7x', counted=2, devices=2
  ),
  'h100': Family(kind='NVIDIA H100 80GB HBM3', dimensions=2),
}
EXAMPLES = ('v5e:16x16', 'v5p:4x4x4', 'v6e:16x16', 'tpu7x:4x4x4', 'h100:8x4')
_CPU_DEVICES = '--xla_force_host_platform_device_count'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
  """Chips as they are wired.

  Attributes:
    name: 'v5e:16x16'.
    family: of the chips.
    sides: of a slice; of GPUs, those of a node and the nodes.
    slices: the number of slices, 1 for GPUs.
  """

  name: str
  family: Family
  sides: tuple[int, ...]
  slices: int = 1

  @property
  def is_tpu(self) -> bool:
    """Whether libtpu compiles for it; CPU devices stand for GPUs."""
    return bool(self.family.accelerator)

  @property
  def chips(self) -> int:
    """The number of chips of all slices."""
    return math.prod(self.sides) * self.slices

  @property
  def devices(self) -> int:
    """The number of devices of jax."""
    return self.chips * self.family.devices

  def __str__(self) -> str:
    return self.name + (f' x {self.slices}' if self.slices > 1 else '')


def parse(text: str, slices: int = 1) -> Topology:
  """Returns the topology of a name.

  Raises:
    UserError: an unknown family, another number of sides, or slices of GPUs.
  """
  name, _, sizes = text.partition(':')
  family = FAMILIES.get(name)
  allowed = f'such as {", ".join(EXAMPLES)}'
  if family is None:
    near = names.nearest(name, FAMILIES)
    raise errors.UserError(
      f'--topology={text}: must be FAMILY:SIDES, {allowed}{near}'
    )
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', sizes, re.ASCII) or (
    sizes.count('x') + 1 != family.dimensions
  ):
    raise errors.UserError(
      f'--topology={text}: {name} has {family.dimensions} sides, {allowed}.'
    )
  sides = tuple(map(int, sizes.split('x')))
  found = Topology(name=text, family=family, sides=sides, slices=slices)
  if slices > 1 and not found.is_tpu:
    raise errors.UserError(
      f'--slices={slices}: {text} has none, its second side is that of nodes.'
    )
  return found


def of_options(options: Mapping[str, Any]) -> Topology:
  """Returns the topology of a command line.

  Raises:
    UserError: none is given; see `parse`.
  """
  if options['topology'] is None:
    raise errors.UserError(
      f'--mode=plan needs --topology, such as {", ".join(EXAMPLES)}.'
    )
  return parse(options['topology'], options['slices'] or 1)


def environment(topology: Topology, was: Mapping[str, str]) -> dict[str, str]:
  """Returns the variables with which jax compiles for a topology.

  Args:
    topology: that a plan is made for.
    was: the variables of the process.
  """
  if not topology.is_tpu:
    flags = was.get('XLA_FLAGS', '').split()
    kept = [flag for flag in flags if not flag.startswith(_CPU_DEVICES)]
    flag = f'{_CPU_DEVICES}={topology.devices}'
    return {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ' '.join([*kept, flag])}
  family = topology.family
  count = math.prod(topology.sides) * family.counted
  return {
    'JAX_PLATFORMS': 'cpu',  # of this process; TPUs are compiled for only
    'TPU_SKIP_MDS_QUERY': '1',  # libtpu asks no metadata server
    'TPU_ACCELERATOR_TYPE': f'{family.accelerator}-{count}',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # by processes that compile at a time
  }


def prepare(
  topology: Topology, variables: MutableMapping[str, str] = os.environ
) -> None:
  """Sets the variables of this process; jax must not have been loaded.

  Raises:
    UserError: a TPU topology without libtpu.
  """
  if topology.is_tpu and importlib.util.find_spec('libtpu') is None:
    raise errors.UserError(
      f'--topology={topology.name} needs the compiler of TPUs, which works'
      " without TPUs, too: pip install 'pyramid_jax[tpu]'",
      errors.MISSING,
    )
  variables.update(environment(topology, variables))


def devices(topology: Topology) -> 'list[jax.Device]':
  """Returns the devices of a topology, which can be compiled for alone.

  Raises:
    UserError: sides that no such slice has.
  """
  import jax
  from jax.experimental import topologies

  if not topology.is_tpu:
    return jax.devices('cpu')[: topology.devices]
  options: dict[str, object] = {}
  if topology.slices > 1:
    options['num_slices'] = topology.slices
  if topology.chips == 1:  # a host of one chip; others have 2 x 2
    options['chips_per_host_bounds'] = (1, 1, 1)
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=topology.name, **options
    )
  except jax.errors.JaxRuntimeError as error:
    _, is_refused, reason = str(error).partition('INVALID_ARGUMENT: ')
    if not is_refused:
      raise
    raise errors.UserError(
      f'--topology={topology.name}: no such slice, hosts have 2 x 2 chips, and'
      f' one chip is alone; {reason}'
    ) from error
  return list(found.devices)


def mesh(topology: Topology, config: ConfigDict) -> 'jax.sharding.Mesh':
  """Returns the mesh of `config.mesh` on the devices of a topology.

  Raises:
    UserError: sizes that do not fit the devices, or how they are wired.
  """
  from pyramid_jax import placement
  from pyramid_jax.distributed import mesh as mesh_lib

  there = devices(topology)
  with errors.user_errors():
    try:
      return mesh_lib.create(config, there)
    except NotImplementedError as error:
      sides = (*topology.sides, topology.family.devices)
      allowed = ', '.join(map(str, _products(sides)))
      wish = ', '.join(f'{a}={config[a]}' for a in placement.AXES)
      raise errors.UserError(
        f'config.mesh has {wish}: on {topology} an axis is a product of sides,'
        f' {allowed}, and no side is part of two axes.'
      ) from error


def _products(sides: Sequence[int]) -> list[int]:
  """Returns the products of some of the sides, 1 included, rising."""

  def found() -> Iterator[int]:
    for count in range(len(sides) + 1):
      yield from map(math.prod, itertools.combinations(sides, count))

  return sorted(set(found()))
