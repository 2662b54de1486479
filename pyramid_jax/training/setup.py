"""The parts of a training run, before it has any weights."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax import placement
from pyramid_jax.conditioning import stored_tokens
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.caches import added_arrays
from pyramid_jax.data.caches import text_cache
from pyramid_jax.data.pixels import buckets as buckets_lib
from pyramid_jax.distributed import flags
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.evaluation import scoring
from pyramid_jax.files import stores
from pyramid_jax.networks.layers import remat
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import data_record
from pyramid_jax.runs import init_from
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import same_start
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import sampled
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """The parts of a run, or of one of its two stages."""

  config: ConfigDict
  workdir: stores.Path
  mesh: Mesh
  options: flags.Options  # of the compiler
  system: system_lib.Trainable
  settings: pipeline.Settings  # Previews and scored images need it.
  reader: reader_lib.Reader  # The reader of the training split.
  reader_val: reader_lib.Reader  # The reader of the validation split.
  data: data_record.DataRecord  # What both of them read.
  # Returns the state before the first step; traceable.
  create: Callable[[], step_lib.TrainState]
  batch: Mapping[str, jax.Array]  # on the mesh
  state: step_lib.TrainState  # abstract, with shardings
  frozen: Mapping[str, Any]  # pretrained weights; abstract, with shardings
  # The system and its pretrained weights as a step has them: other ones than
  # those that sample only where texts were encoded beforehand.
  step_system: system_lib.Trainable
  step_frozen: Mapping[str, Any]
  null_tokens: np.ndarray | None  # (L, D), the encoded empty text in that case
  start: init_from.Start | None  # from which weights a new run begins

  def for_steps(self, frozen: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the pretrained weights of steps, given those that sample."""
    found = dict(frozen)
    if self.null_tokens is not None:
      null = {'null': self.null_tokens}
      part = text_cache.PART
      kinds = jax.tree.map(lambda s: s.sharding, self.step_frozen[part])
      found[part] = initial.place(null, kinds)
    return found

  def for_samples(self, frozen: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the pretrained weights that sample, given those of steps.

    An encoder of texts that steps do not need is read again.
    """
    if self.null_tokens is None:
      return dict(frozen)
    part = text_cache.PART
    arguments = self.system, self.config, self.mesh, self.workdir
    loaded = pretrained.load(*arguments, only=part)
    return {**frozen, **pretrained.in_use(self.system, loaded)}


def prepare(config: ConfigDict, workdir: stores.Path) -> Setup:
  """Builds all that needs no weights.

  Raises:
    UserError: the config does not fit the devices, the system or the data, or
      the data are not those that the run began with.
  """
  with errors.user_errors():  # checks of the input; tracing comes after them
    mesh = mesh_lib.create(config.mesh)
    options = flags.of_config(config, mesh)
    system = workdir_lib.create_system(config)
    step_lib.check_batch(system, config, mesh)
    with placement.on(mesh):
      remat.check(config.remat, placement.platform())
      settings = settings_lib.of_config(system, config)
    reader: reader_lib.Reader = data.create(config, 'train')
    reader_val = data.create(config, 'val')
    step_system, null_tokens = system, None
    if config.condition.cache:
      step_system = sampled.with_stored_tokens(system)
      encoder = stored_tokens.text_encoder(sampled.encoder_of(system))
      cache = text_cache.TextCache(config, encoder)
      reader = added_arrays.reader_with(reader, cache)
      null_tokens = cache.null
    record = data_record.DataRecord.of(train=reader, val=reader_val)
    same_start.check_data(record.facts)
    allow_change = config.data.allow_change
    processes.decided(lambda: record.check_newest(workdir, allow_change))
    scoring.validation_count(config, system.outputs, len(reader_val))
    order = batches(config, reader, mesh)
    _check_host(config, order)
    batch = mesh_lib.place(mesh, order.at(0))

  few = scoring.few_images(config, system.outputs, len(reader_val))
  if few and config.train.eval_every:
    logging.warning('%s', few)

  def create():
    return step_lib.create(system, config)

  min_size = config.mesh.fsdp_min_size
  state = step_lib.abstract(create, mesh, config)
  is_new = processes.decided(lambda: not checkpoints.steps(workdir))
  return Setup(
    config=config,
    workdir=workdir,
    mesh=mesh,
    options=options,
    system=system,
    settings=settings,
    reader=reader,
    reader_val=reader_val,
    data=record,
    create=create,
    batch=batch,
    state=state,
    frozen=pretrained.abstract(system, mesh, min_size),
    step_system=step_system,
    step_frozen=pretrained.abstract(step_system, mesh, min_size),
    null_tokens=null_tokens,
    start=init_from.plan(config, system, state, mesh) if is_new else None,
  )


def batches(
  config: ConfigDict,
  reader: reader_lib.Reader,
  mesh: Mesh | None = None,
) -> batches_lib.Batches:
  """Returns the training batches: the rows of this process on a mesh.

  Without a mesh they have all rows.
  """
  size, seed = config.train.batch_size, config.train.seed
  rows = None
  if mesh is not None:
    rows = mesh_lib.local_rows(mesh_lib.batch_sharding(mesh), size)
  if reader.buckets is not None:
    return buckets_lib.BucketBatches(reader, reader.buckets, size, seed, rows)
  return batches_lib.Batches(reader, size, seed, True, rows)


def _check_host(config: ConfigDict, order: batches_lib.Batches) -> None:
  """Raises OutOfMemory for batches that the host cannot hold.

  Only where images of the config's size take a tenth of its memory, an example
  is read to know.
  """
  there, rows = memory.available_on_host(), len(order.positions(0))
  if there is None or rows * config.data.image_size**2 * 3 < there / 10:
    return
  example = order.rows(np.zeros(1, np.int64))
  # One is being read while another is on its way to the devices.
  needed = 2 * rows * sum(x.nbytes for x in example.values())
  if needed > there:
    raise memory.OutOfMemory(needed, there)


def memory_advice(config: ConfigDict) -> str:
  """Says what a step holds at a time, and what takes less memory."""
  train = config.train
  parts = mesh_lib.batch_parts(mesh_lib.create(config.mesh))
  rows = train.batch_size // (parts * train.accumulate)
  less = ['a larger config.train.accumulate', 'a smaller batch']
  if config.remat != remat.FULL:
    less.insert(1, f'config.remat={remat.FULL}')
  if config.mesh.fsdp == 1:
    less.insert(-1, 'several devices with config.mesh.fsdp')
  return (
    f'config.train.batch_size={train.batch_size} with'
    f' config.train.accumulate={train.accumulate} is {rows} examples at a time'
    f' on a device: less is needed by {", ".join(less[:-1])} or {less[-1]}.'
  )
