"""The processes of a manifest for GPU nodes find each other, on CPU devices."""

import json
import re

from tests.helpers import cluster
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
