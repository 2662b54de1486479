"""Prints which options of the table the compiler of TPUs refuses, as JSON.

A process of its own, since libtpu reads the environment when it is loaded.
Arguments: names of topologies, 'v5e:2x2' or 'v5e:2x2@2' for two slices.
"""

import json
import os
import sys


os.environ |= {
  'JAX_PLATFORMS': 'cpu',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}

from jax.experimental import topologies

from pyramid_jax.distributed import flags


UNKNOWN = {'xla_tpu_no_such_option': True}


def main(names: list[str]) -> None:
  """Writes {topology: {'rows', 'options', 'refused', 'unknown'}}."""
  found = {}
  for name in names:
    topology, _, slices = name.partition('@')
    more = {'num_slices': int(slices)} if slices else {}
    devices = topologies.get_topology_desc(
      platform='tpu', topology_name=topology, **more
    ).devices
    options = flags.compiler_options(devices)
    found[name] = {
      'rows': flags.rows(devices),
      'options': options,
      'refused': flags.refused(options, devices[0]),
      'unknown': flags.refused({**options, **UNKNOWN}, devices[0]),
    }
  json.dump(found, sys.stdout)


if __name__ == '__main__':
  main(sys.argv[1:])
