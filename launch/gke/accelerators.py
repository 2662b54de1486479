"""Accelerator types, and the nodes of GKE that have them.

Names are those of `gcloud` and `xpk`: of v4 and v5p the number counts cores,
two a chip, of v5litepod and v6e chips, and of GPUs those of a node. Labels and
topologies are those that GKE gives its node pools. Hosts of TPUs have four
chips, but for slices of one chip.
"""

import dataclasses
import difflib
import sys


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
  """A TPU slice, or a node with GPUs.

  Attributes:
    name: as it is asked for.
    label: what GKE calls the accelerator of a node.
    topology: of the chips of a slice; '' for GPUs.
    chips_per_host: the devices that a pod asks for.
    hosts: the pods of a slice; 1 for GPUs, whose nodes are counted apart.
  """

  name: str
  label: str
  topology: str
  chips_per_host: int
  hosts: int

  @property
  def is_tpu(self) -> bool:
    """Whether it is a TPU slice."""
    return bool(self.topology)

  @property
  def resource(self) -> str:
    """The name by which a container asks for the devices of a host."""
    return 'google.com/tpu' if self.is_tpu else 'nvidia.com/gpu'

  @property
  def node_selector(self) -> dict[str, str]:
    """The labels of the nodes."""
    cloud = 'cloud.google.com'
    if not self.is_tpu:
      return {f'{cloud}/gke-accelerator': self.label}
    return {
      f'{cloud}/gke-tpu-accelerator': self.label,
      f'{cloud}/gke-tpu-topology': self.topology,
    }


_FLAT = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBES = (
  *('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8'),
  *('8x8x16', '8x16x16'),
)
# Family: (label, what the number counts in a chip, topologies).
_TPUS = {
  'v4': ('tpu-v4-podslice', 2, _CUBES),
  'v5litepod': ('tpu-v5-lite-podslice', 1, ('1x1', *_FLAT)),
  'v5p': ('tpu-v5p-slice', 2, (*_CUBES, '16x16x16', '16x16x24')),
  'v6e': ('tpu-v6e-slice', 1, ('1x1', *_FLAT)),
}
# Of which `--mode=plan` makes plans: what it calls them.
_PLANNED_TPUS = {'v5litepod': 'v5e', 'v5p': 'v5p', 'v6e': 'v6e'}
_H100 = ('h100-80gb', 'h100-mega-80gb')
# Family: (label, numbers of GPUs in a node).
_GPUS = {
  'a100-40gb': ('nvidia-tesla-a100', (1, 2, 4, 8, 16)),
  'a100-80gb': ('nvidia-a100-80gb', (1, 2, 4, 8)),
  'b200': ('nvidia-b200', (8,)),
  'h100-80gb': ('nvidia-h100-80gb', (8,)),
  'h100-mega-80gb': ('nvidia-h100-mega-80gb', (8,)),
  'h200-141gb': ('nvidia-h200-141gb', (8,)),
  'l4': ('nvidia-l4', (1, 2, 4, 8)),
}


def _chips(topology: str) -> int:
  count = 1
  for size in topology.split('x'):
    count *= int(size)
  return count


def _slice(family: str, topology: str) -> Accelerator:
  label, per_chip, _ = _TPUS[family]
  chips = _chips(topology)
  hosts = max(1, chips // 4)
  return Accelerator(
    name=f'{family}-{chips * per_chip}',
    label=label,
    topology=topology,
    chips_per_host=chips // hosts,
    hosts=hosts,
  )


def _node(family: str, count: int) -> Accelerator:
  return Accelerator(
    name=f'{family}-{count}',
    label=_GPUS[family][0],
    topology='',
    chips_per_host=count,
    hosts=1,
  )


_ALL = (
  *(
    _slice(f, t) for f, (_, _, topologies) in _TPUS.items() for t in topologies
  ),
  *(_node(f, n) for f, (_, counts) in _GPUS.items() for n in counts),
)
TABLE = {accelerator.name: accelerator for accelerator in _ALL}


def plan_flags(name: str, count: int) -> list[str]:
  """Returns the flags of `--mode=plan`, [] for chips without plans.

  Args:
    name: of an accelerator; one that is not known has no plan.
    count: of slices or nodes.
  """
  family, _, size = name.rpartition('-')
  if name in TABLE and family in _PLANNED_TPUS:
    slices = [f'--slices={count}'] if count > 1 else []
    place = f'{_PLANNED_TPUS[family]}:{TABLE[name].topology}'
    return [f'--topology={place}', *slices]
  return [f'--topology=h100:{size}x{count}'] if family in _H100 else []


def find(name: str) -> Accelerator:
  """Returns the accelerator of a name.

  Raises:
    ValueError: there is none; the nearest names, of the same family if there is
      one.
  """
  if name in TABLE:
    return TABLE[name]
  family, _, number = name.rpartition('-')
  sizes = [n for n in TABLE if n.rpartition('-')[0] == family]
  if number.isdecimal() and sizes:
    near = sorted(
      sizes, key=lambda n: abs(int(n.rpartition('-')[2]) - int(number))
    )
  else:
    near = difflib.get_close_matches(name, TABLE, n=3, cutoff=0) or [*TABLE]
  raise ValueError(
    f'--accelerator={name} is not known; the nearest are {", ".join(near[:3])}'
  )


if __name__ == '__main__':  # launch/plan.sh asks
  sys.stdout.write(' '.join(plan_flags(sys.argv[1], int(sys.argv[2]))))
