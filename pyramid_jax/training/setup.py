"""The parts of a training run, before it has any weights."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import buckets as buckets_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import sharding
from pyramid_jax.evaluation import scoring
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """The parts of a run, or of one of its two stages."""

  config: ConfigDict
  workdir: pathlib.Path
  mesh: Mesh
  system: system_lib.Trainable
  settings: pipeline.Settings  # Previews and scored images need it.
  reader: reader_lib.Reader  # The reader of the training split.
  reader_val: reader_lib.Reader  # The reader of the validation split.
  # Returns the state before the first step; traceable.
  create: Callable[[], step_lib.TrainState]
  batch: Mapping[str, jax.Array]  # on the mesh
  state: step_lib.TrainState  # abstract, with shardings
  frozen: Mapping[str, Any]  # pretrained weights; abstract, with shardings


def prepare(config: ConfigDict, workdir: pathlib.Path) -> Setup:
  """Builds all that needs no weights.

  Raises:
    UserError: the config does not fit the devices, the system or the data.
  """
  with errors.user_errors():  # checks of the input; tracing comes after them
    mesh = mesh_lib.create(config.mesh)
    mesh_lib.check_batch(mesh, config.train.batch_size, config.train.accumulate)
    system = workdir_lib.create_system(config)
    settings = settings_lib.of_config(system, config)
    reader = data.create(config, 'train')
    reader_val = data.create(config, 'val')
    scoring.validation_count(config, system.outputs, len(reader_val))
    batch = mesh_lib.place(mesh, batches(config, reader).at(0))

  few = scoring.few_images(config, system.outputs, len(reader_val))
  if few and config.train.eval_every:
    logging.warning('%s', few)

  def create():
    return step_lib.create(system, config)

  min_size = config.mesh.fsdp_min_size
  return Setup(
    config=config,
    workdir=workdir,
    mesh=mesh,
    system=system,
    settings=settings,
    reader=reader,
    reader_val=reader_val,
    create=create,
    batch=batch,
    state=sharding.abstract(jax.eval_shape(create), mesh, min_size),
    frozen=pretrained.abstract(system, mesh, min_size),
  )


def batches(
  config: ConfigDict,
  reader: reader_lib.Reader,
  part: tuple[int, int] | None = None,
) -> batches_lib.Batches:
  """Returns part (index, count) of the training batches; None: our own."""
  size, seed = config.train.batch_size, config.train.seed
  part = processes.process_part() if part is None else part
  if reader.buckets is not None:
    return buckets_lib.BucketBatches(reader, reader.buckets, size, seed, *part)
  return batches_lib.Batches(reader, size, seed, True, *part)
