"""The weights of a run that has ended, as one file beside its checkpoints."""

from collections.abc import Collection
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.files import stores
from pyramid_jax.runs import compact
from pyramid_jax.runs import loading
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib


def write(
  workdir: stores.Path,
  config: ConfigDict,
  label_names: Sequence[str],
  weights: system_lib.Weights,
  step: int,
) -> None:
  """Writes `WORKDIR/weights.safetensors` if the config wants it.

  Then `config.json` gets its sum. All processes call it, one writes.

  Args:
    workdir: of the run.
    config: of the run.
    label_names: of the run's data.
    weights: with the averages in place.
    step: the last one.

  Raises:
    UserError: the file cannot be written.
  """
  if not config.train.export:
    return
  names = weights.frozen.keys() & {pretrained.FIRST_STAGE}
  if 'first_stage' in config and config.first_stage.checkpoint:
    names = set()  # it is where the config says
  trees = {
    'params': weights.params,
    'frozen': _frozen(workdir, config, names),
    'extra': weights.extra,
    'step': np.int32(step),
  }
  compact.write(workdir, config, trees, dtype='float32')
  processes.decided(
    lambda: workdir_lib.write_record(
      workdir, config, label_names, [compact.FILE]
    )
  )


def _frozen(
  workdir: stores.Path, config: ConfigDict, names: Collection[str]
) -> dict[str, Any]:
  """Reads parts anew: those that a run uses may have a short element type."""
  if not names:
    return {}
  system, mesh = workdir_lib.create_system(config), mesh_lib.pure_data()
  (name,) = names
  return pretrained.load(system, config, mesh, workdir, only=name)


def complete(workdir: stores.Path, config: ConfigDict) -> None:
  """Writes the file of a run that was killed after its last checkpoint."""
  is_there = processes.decided(lambda: compact.is_there(workdir))
  if config.train.export and not is_there:
    run = loading.load(config, workdir)
    names = workdir_lib.read_labels(workdir)
    write(workdir, config, names, run.weights, run.step)
