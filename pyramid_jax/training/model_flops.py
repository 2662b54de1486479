"""The floating-point operations of a training step, a function of the system.

They are those of the mathematics, whatever the program computes twice to save
memory: `distributed/flops.of_training` says what counts.
"""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from pyramid_jax.distributed import flops
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import step as step_lib


def of_step(
  system: system_lib.Trainable,
  config: ConfigDict,
  finish: step_lib.Finish,
  state: step_lib.TrainState,
  frozen: Mapping[str, Any],
  batch: step_lib.Batch,
  measure: flops.Measure = flops.operations,
) -> int:
  """Returns the operations of a training step, over all devices.

  Nothing is computed and no device is needed: all arrays may be shapes.

  Args:
    system: that is trained.
    config: of the run.
    finish: `Reader.finish`.
    state: of the run.
    frozen: the pretrained weights.
    batch: (B, ...) arrays of a whole batch.
    measure: is counted in place of operations.
  """
  count = config.train.accumulate
  losses = step_lib.losses_of(system)

  def micro(params, frozen, extra, step, batch):
    key = system_lib.key_of(config.train.seed)
    return losses(params, frozen, extra, key, step, finish(batch))

  part = {
    name: jax.ShapeDtypeStruct((x.shape[0] // count, *x.shape[1:]), x.dtype)
    for name, x in batch.items()
  }
  arguments = _shapes((state.params, frozen, state.extra, state.step))
  return count * flops.of_training(micro, *arguments, part, measure=measure)


def _shapes(tree: Any) -> Any:
  """Returns a tree of shapes without shardings."""
  shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  return jax.tree.map(shape, tree)
