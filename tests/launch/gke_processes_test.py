"""The processes of a manifest for GPU nodes find each other, on CPU devices."""

import json
import re
import subprocess
import sys

import pytest

from tests.helpers import cluster
from tests.helpers import object_server
from tests.helpers import processes
from tests.launch.gke_manifest_test import MANIFEST


NODES = 2
WORDS = (
  *('ldm', '--image=image', '--workdir=gs://bucket/ldm', '--config=CONFIG'),
  *('--accelerator=h100-80gb-8', f'--nodes={NODES}'),
)


class Pods(cluster.Cluster):
  """The pods of a manifest: Kubernetes gives each its number and its name."""

  def _of(self, index):
    run, _ = MANIFEST.parse(WORDS)
    flags = [x for x in MANIFEST.command(run) if x.startswith('--config.')]
    first = f'ldm-{MANIFEST.WORKERS}-0-0.ldm:{MANIFEST.COORDINATOR_PORT}'
    known = {
      '$(JOB_COMPLETION_INDEX)': str(index),
      first: f'127.0.0.1:{self.port}',
    }
    for word, value in known.items():
      assert sum(word in flag for flag in flags) == 1
      flags = [flag.replace(word, value) for flag in flags]
    return [*self._arguments, *flags]


def test_pods_find_each_other():
  with Pods(NODES, 'hear', module='tests.helpers.talking') as pods:
    ended = pods.wait()
  assert [x.code for x in ended] == [0] * NODES, cluster.report(ended)
  found = [json.loads(re.search('heard (.*)', x.text)[1]) for x in ended]
  assert [heard['part'] for heard in found] == [[0, NODES], [1, NODES]]


COMPILES = """
import jax
import jax.numpy as jnp
found = []
jax.monitoring.register_event_listener(lambda name, **more: found.append(name))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((8, 8)))
names = [x.rpartition('/')[2] for x in found if 'cache' in x]
print(names.count('cache_hits'), names.count('cache_misses'))
"""


@pytest.mark.hosts
def test_programs_are_kept_in_a_bucket():
  with object_server.serving() as (_, variables):
    folder = f'gs://{object_server.BUCKET}/ldm/xla'
    env = processes.environment() | variables
    env['JAX_COMPILATION_CACHE_DIR'] = folder
    hits, misses = [], []
    for _ in range(2):
      done = subprocess.run(
        [sys.executable, '-c', COMPILES],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
      )
      hit, missed = map(int, done.stdout.split())
      hits.append(hit)
      misses.append(missed)
  assert hits == [0, misses[0]]
  assert misses[0] > 0
  assert misses[1] == 0
