"""Writes a run of random weights, as if it had been trained."""

import jax.numpy as jnp

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.training import step as state_lib
from tests.helpers import system_weights


def write(folder, config, seed=0, extra=None, labels=('padding',)):
  """Writes a workdir; returns the system and its weights.

  Args:
    folder: made if it is missing; has no checkpoint yet.
    config: of the run.
    seed: of the weights.
    extra: untrained state, 0.5 everywhere if not given.
    labels: the label names of its data.
  """
  system = workdir_lib.create_system(config)
  weights = system_weights.weights_of(system)
  weights = weights.replace(
    params=system_weights.fill(weights.params, seed),
    extra=weights.extra if extra is None else extra,
  )
  state = state_lib.TrainState(
    step=jnp.int32(1),
    params=weights.params,
    ema={},
    opt_state={},
    extra=weights.extra,
  )
  folder.mkdir(parents=True, exist_ok=True)
  workdir_lib.write_record(folder, config, labels)
  store = checkpoints.Checkpoints(folder, 1)
  store.save(state, config, mesh_lib.create(config.mesh), 0)
  store.close()
  return system, weights
