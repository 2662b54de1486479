"""The launchers start processes that find each other, on a CPU device each."""

import re
import sys

import pytest

from pyramid_jax import errors
from tests.helpers import cluster
from tests.helpers import processes
from tests.launch import shell
from tests.launch import slurm_test


# srun as Slurm has it: it returns the highest code of its tasks.
SRUN = """
while [[ "$1" == --* ]]; do shift; done
export SLURM_NTASKS=2 SLURM_STEP_NODELIST=127.0.0.1 SLURM_STEP_TASKS_PER_NODE=2
pids=() result=0
for n in 0 1; do
  SLURM_PROCID=$n SLURM_LOCALID=$n "$@" 2>&1 &
  pids+=($!)
done
for pid in "${pids[@]}"; do
  wait "$pid"
  code=$?
  [ "$code" -le "$result" ] || result=$code
done
exit "$result"
"""
TALKING = (sys.executable, '-m', 'tests.helpers.talking')
LONG = pytest.mark.hosts


@pytest.fixture
def slurm(tmp_path):
  found = slurm_test.fake_slurm(tmp_path)
  found.add('srun', SRUN)
  return found


def variables():
  given = processes.environment()
  del given['PATH']  # the fakes have theirs
  port = str(cluster.free_port())
  return given | {'JAX_COORDINATOR_PORT': port, 'NPROC': '16'}


def submit(slurm, *words):
  return slurm_test.submit(slurm, *TALKING, *words, **variables())


def test_tasks_of_slurm_find_each_other(slurm):
  code, out, err = submit(slurm, 'hear')
  assert code == 0, out + err
  assert '2 processes with 2 devices' in out
  assert '(slurm)' in out
  assert len(re.findall('heard ', out)) == 2


@LONG
@pytest.mark.parametrize(
  ('words', 'code', 'starts'),
  [
    (('error', '1'), errors.MISSING, 1),
    (('kill', '1', '--config.distributed.heartbeat_secs=5'), 137, 4),
  ],
)
def test_the_end_of_a_task_of_slurm(slurm, words, code, starts):
  found, out, err = submit(slurm, *words)
  assert found == code, out + err
  assert len(slurm.calls('srun')) == starts


def test_processes_of_gpus_find_each_other(tmp_path):
  code, out, err = shell.Fakes(tmp_path).run(
    'gpu_node.sh', '--per-gpu', '--gpus=2', *TALKING, 'hear', **variables()
  )
  assert code == 0, out + err
  assert '[0] ' in err
  assert '2 processes with 2 devices' in err
  assert len(re.findall(r'^\[[01]\] .*heard ', out + err, re.M)) == 2
