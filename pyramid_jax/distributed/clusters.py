"""The cluster that a process was started in: who is who, by its environment.

jax recognises TPU VMs, GKE, Slurm, Kubernetes and Open MPI. What it makes of a
Slurm job serves one process for each GPU alone; `find` corrects that.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from pyramid_jax import errors


# Kubernetes is recognised by its address, and needs a package of its own.
_KUBERNETES = 'KUBERNETES_SERVICE_HOST'
_TPU_HOSTS = ('TPU_WORKER_HOSTNAMES', 'TPU_PROCESS_ADDRESSES')
_LOCAL_DEVICES = 'JAX_LOCAL_DEVICE_IDS'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
  """The place of a process among those of a run."""

  name: str  # of the cluster, for messages
  coordinator: str  # HOST:PORT of process 0
  count: int  # of processes
  index: int  # of this process
  local_devices: tuple[int, ...] | None  # the GPUs it takes; None for all


def replace_devices(
  cluster: Cluster, local_devices: tuple[int, ...]
) -> Cluster:
  """Returns a cluster in which this process takes other GPUs."""
  return dataclasses.replace(cluster, local_devices=local_devices)


def find(environment: Mapping[str, str], timeout_secs: int) -> Cluster | None:
  """Returns the cluster that this process belongs to; None without one.

  Args:
    environment: variables of the process; jax reads those of `os.environ`.
    timeout_secs: how long the coordinator's name may take to be known.

  Raises:
    UserError: the cluster does not tell what is needed.
  """
  from jax._src import clusters  # jax has no public name for it

  kinds = [
    kind
    for kind in clusters.ClusterEnv._cluster_types
    if not kind.opt_in_only_method
  ]
  try:
    kind = next(
      (kind for kind in kinds if _is_present(kind, environment)), None
    )
    if kind is None:
      return None
    port = environment.get('JAX_COORDINATOR_PORT')
    count, index = kind.get_process_count(), kind.get_process_id()
    if count == 1:
      return None
    return Cluster(
      name=kind.name or kind.__name__,
      coordinator=environment.get('JAX_COORDINATOR_ADDRESS')
      or kind.get_coordinator_address(timeout_secs, port),
      count=count,
      index=index,
      local_devices=_local_devices(kind, environment),
    )
  except (
    *(RuntimeError, ValueError, LookupError, OSError),
    ImportError,  # a TPU VM needs the package requests
  ) as error:
    raise errors.UserError(
      f'the cluster does not tell its processes ({type(error).__name__}:'
      f' {error}); set --config.distributed.mode=explicit with coordinator,'
      ' processes and process_id, or mode=off for one process.',
      errors.MISSING,
    ) from error


def _is_present(kind: Any, environment: Mapping[str, str]) -> bool:
  """Whether a process runs in a kind of cluster.

  A pod of Kubernetes that does not know of other processes is one process: what
  asks for them needs a package and rights that such a pod may lack.
  """
  if kind.name == 'k8s' or kind.__name__ == 'K8sCluster':
    if 'JOB_COMPLETION_INDEX' not in environment:
      return False
    if _KUBERNETES in environment and not _has_kubernetes():
      raise errors.UserError(
        'this pod is one of an Indexed Job, whose processes are found by the'
        ' package kubernetes: pip install kubernetes, or set'
        ' --config.distributed.mode=explicit (or off).',
        errors.MISSING,
      )
  return bool(kind.is_env_present())


def _has_kubernetes() -> bool:
  import importlib.util

  return importlib.util.find_spec('kubernetes') is not None


def _local_devices(
  kind: Any, environment: Mapping[str, str]
) -> tuple[int, ...] | None:
  """Returns the GPUs of this process: one of several, or all of its node."""
  given = environment.get(_LOCAL_DEVICES)
  if given:
    return tuple(map(int, given.split(',')))
  if any(name in environment for name in _TPU_HOSTS):
    return None
  local = kind.get_local_process_id()
  if local is None or _tasks_here(environment) == 1:
    return None  # one process for a node takes all of its GPUs
  visible = [
    x for x in environment.get('CUDA_VISIBLE_DEVICES', '').split(',') if x
  ]
  if len(visible) == 1:
    return None  # the launcher gave it its own
  if visible and local >= len(visible):
    raise errors.UserError(
      f'process {local} of this host has no GPU: CUDA_VISIBLE_DEVICES has'
      f' {len(visible)}. Start one process for each GPU (--gres=gpu:N with'
      ' --ntasks-per-node=N), or one for each node (--ntasks-per-node=1).',
      errors.USAGE,
    )
  return (local,)


def _tasks_here(environment: Mapping[str, str]) -> int | None:
  """Returns how many processes this host has, None if it is not known."""
  text = environment.get('SLURM_STEP_TASKS_PER_NODE') or environment.get(
    'SLURM_NTASKS_PER_NODE', ''
  )
  # '2(x3),1': by node; nodes with other numbers are not distinguished.
  numbers = {part.partition('(')[0] for part in text.split(',') if part}
  if len(numbers) == 1 and (number := numbers.pop()).isdecimal():
    return int(number)
  ompi = environment.get('OMPI_COMM_WORLD_LOCAL_SIZE', '')
  return int(ompi) if ompi.isdecimal() else None
