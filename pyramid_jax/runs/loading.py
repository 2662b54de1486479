"""Weights of a workdir, for everything that does not train."""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import hashes
from pyramid_jax.runs import predictors as steering
from pyramid_jax.runs import pretrained as frozen_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.sketch import sketch


LABELS = 'labels.json'  # of a workdir: the label names of its data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A run that can be sampled from.

  Attributes:
    system: built from the config.
    mesh: the devices.
    weights: on the mesh, with the averages in place.
    step: of the checkpoint, None for the newest valid one.
  """

  system: system_lib.Trainable
  mesh: Mesh
  weights: system_lib.Weights
  step: int


def load(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  step: int | None = None,
) -> Run:
  """Restores the weights of a workdir straight into their shardings.

  Args:
    config: of the run; with `sketch.predictor` the run is steered by it.
    workdir: of the run.
    step: of the checkpoint, with a predictor of its own; None for the newest
      valid one.

  Raises:
    UserError: no usable checkpoint, or weights of another network.
  """
  config, folder = steering.resolve(config, workdir)
  with errors.user_errors():
    system = systems.create(config)
  mesh = mesh_lib.create(config.mesh)
  min_size = config.mesh.fsdp_min_size
  params, extra = jax.eval_shape(system.init, jax.random.key(0), {})
  trees = checkpoints.load(
    folder,
    {
      'params': sharding.abstract(params, mesh, min_size),
      'extra': sharding.abstract(extra, mesh, min_size),
      'step': sharding.abstract(
        jax.ShapeDtypeStruct((), jnp.int32), mesh, min_size
      ),
    },
    step,
  )
  weights = system_lib.Weights(
    params=trees['params'],
    frozen=frozen_lib.load(system, config, mesh, folder),
    extra=trees['extra'],
  )
  check = getattr(system, 'check_extra', None)
  if check is not None:
    with errors.user_errors():
      check(trees['extra'])
  step = int(trees['step'])
  if isinstance(system, sketch.Sketch):
    was = checkpoints.frozen(folder, step).get(sketch.BASE)
    digest = hashes.digest(weights.frozen[sketch.BASE])
    steering.check_base(system, was, digest, folder)
  return Run(system=system, mesh=mesh, weights=weights, step=step)


def write_labels(
  workdir: str | os.PathLike[str], label_names: Sequence[str]
) -> None:
  """Writes down the label names of a run's data, for who samples from it."""
  file = pathlib.Path(workdir) / LABELS
  aside = file.with_name(f'{LABELS}.tmp')
  aside.write_text(json.dumps(list(label_names)))
  aside.replace(file)


def read_labels(workdir: str | os.PathLike[str]) -> tuple[str, ...]:
  """Returns the label names of a run's data, none if it has none."""
  file = pathlib.Path(workdir) / LABELS
  return tuple(json.loads(file.read_text())) if file.is_file() else ()
