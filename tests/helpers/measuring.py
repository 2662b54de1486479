"""What a system measures before the first step, for tests of systems."""

import jax
from ml_collections import ConfigDict

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.training import step as state_lib


def measured(system, weights, batch, accumulate=1, devices=1):
  """Returns the untrained state before the first step.

  Args:
    system: that measures.
    weights: its weights.
    batch: of the first step, as it leaves `Reader.finish`.
    accumulate: microbatches of a step.
    devices: over which the batch is split.
  """
  config = ConfigDict({'train': {'seed': 0, 'accumulate': accumulate}})
  sizes = ConfigDict({'data': -1, 'fsdp': 1, 'tensor': 1})
  mesh = mesh_lib.create(sizes, jax.devices()[:devices])
  measure = state_lib.make_measure(system, config, lambda batch: batch, mesh)
  return jax.jit(measure)(weights.extra, weights.frozen, batch)
