import os
import sys

from jax._src import cloud_tpu_init
from jax._src import clusters as jax_clusters
from jax._src.clusters import cloud_tpu_cluster
import pytest

from pyramid_jax import errors
from pyramid_jax.distributed import clusters


NAMES = ('SLURM_', 'OMPI_', 'TPU_', 'MEGASCALE_', 'JAX_CO', 'KUBERNETES_')
SLURM = {
  'SLURM_JOB_ID': '4100',
  'SLURM_STEP_NODELIST': 'node[007-009,012],other',
  'SLURM_NTASKS': '16',
  'SLURM_PROCID': '11',
  'SLURM_LOCALID': '3',
  'SLURM_STEP_TASKS_PER_NODE': '8(x2)',
}
OMPI = {
  'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911',
  'OMPI_COMM_WORLD_SIZE': '4',
  'OMPI_COMM_WORLD_RANK': '2',
  'OMPI_COMM_WORLD_LOCAL_RANK': '0',
}
GKE = {
  'TPU_WORKER_HOSTNAMES': 'job-0.svc,job-1.svc',
  'TPU_WORKER_ID': '1',
  'MEGASCALE_NUM_SLICES': '2',
  'MEGASCALE_SLICE_ID': '1',
  'MEGASCALE_COORDINATOR_ADDRESS': 'job-slice-0-0.svc:8081',
}
METADATA = {
  'agent-worker-number': '3',
  'worker-network-endpoints': 'a:1:10.0.0.1,b:2:10.0.0.2,c:3:10.0.0.3,d:4:10.4',
  'tpu-env': "ACCELERATOR_TYPE: 'v5litepod-16'\n",
}


@pytest.fixture
def of(monkeypatch):
  """Returns what is found with some variables of the environment."""

  def find(variables, on_tpu=False, metadata=()):
    for name in [x for x in os.environ if x.startswith(NAMES)]:
      monkeypatch.delenv(name)
    for name, value in variables.items():
      monkeypatch.setenv(name, value)
    for module in (cloud_tpu_cluster, cloud_tpu_init):
      monkeypatch.setattr(module, 'running_in_cloud_tpu_vm', on_tpu)
    values = dict(metadata)
    answer = lambda key: (values.get(key, ''), 200 if key in values else 404)
    monkeypatch.setattr(cloud_tpu_cluster, 'get_metadata', answer)
    wait = lambda *arguments: None
    base = cloud_tpu_cluster.BaseTpuCluster
    monkeypatch.setattr(base, 'wait_for_coordinator', wait)
    return clusters.find(dict(os.environ), 5)

  return find


def test_no_cluster(of):
  assert of({}) is None
  assert of({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}) is None
  assert of({'SLURM_JOB_ID': '7'}) is None  # the batch shell, outside of srun


def test_slurm_with_a_process_for_each_gpu(of):
  found = of(SLURM)
  assert (found.count, found.index, found.local_devices) == (16, 11, (3,))
  assert found.coordinator == 'node007:61444'


def test_slurm_with_a_process_for_each_node_takes_all_gpus(of):
  one = {'SLURM_NTASKS': '2', 'SLURM_PROCID': '1', 'SLURM_LOCALID': '0'}
  found = of({**SLURM, **one, 'SLURM_STEP_TASKS_PER_NODE': '1(x2)'})
  assert (found.count, found.local_devices) == (2, None)


def test_slurm_that_gives_each_task_its_gpu(of):
  assert of({**SLURM, 'CUDA_VISIBLE_DEVICES': '5'}).local_devices is None


def test_slurm_with_fewer_gpus_than_tasks(of):
  with pytest.raises(errors.UserError, match='CUDA_VISIBLE_DEVICES has 2'):
    of({**SLURM, 'CUDA_VISIBLE_DEVICES': '4,5'})


def test_given_devices_and_port(of):
  found = of(
    {
      **SLURM,
      'JAX_LOCAL_DEVICE_IDS': '0,1,2',
      'JAX_COORDINATOR_PORT': '8476',
    }
  )
  assert found.local_devices == (0, 1, 2)
  assert found.coordinator == 'node007:8476'


def test_one_task_is_one_process(of):
  assert of({**SLURM, 'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'}) is None


def test_a_job_that_does_not_tell(of):
  with pytest.raises(errors.UserError, match='mode=explicit') as caught:
    of({**SLURM, 'SLURM_NTASKS': 'many'})
  assert caught.value.code == errors.MISSING


def test_open_mpi(of):
  found = of(OMPI)
  assert (found.name, found.count, found.index) == ('ompi', 4, 2)
  assert found.coordinator.startswith('10.96.0.1:')
  assert found.local_devices == (0,)


def test_gke_with_two_slices(of):
  found = of(GKE, on_tpu=True)
  assert (found.name, found.count, found.index) == ('gketpu', 4, 3)
  assert found.coordinator == 'job-slice-0-0.svc:8482'
  assert found.local_devices is None


def test_a_tpu_vm_asks_its_metadata(of):
  found = of({}, on_tpu=True, metadata=METADATA)
  assert (found.name, found.count, found.index) == ('gcetpu', 4, 3)
  assert found.coordinator == '10.0.0.1:8482'


def test_an_indexed_job_needs_a_package(of, monkeypatch):
  monkeypatch.setitem(sys.modules, 'kubernetes', None)
  pod = {'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '1'}
  with pytest.raises(errors.UserError, match='pip install kubernetes'):
    of(pod)


def test_all_kinds_of_jax_are_known():
  names = [kind.__name__ for kind in jax_clusters.ClusterEnv._cluster_types]
  assert {'OmpiCluster', 'SlurmCluster', 'GkeTpuCluster'} <= set(names)
