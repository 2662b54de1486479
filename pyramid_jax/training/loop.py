"""Training: `run` checks everything, `_train` builds, `_loop` loops."""

from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures
import contextlib
import os
import pathlib
import time
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data.readers import latent_cache
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import sharding
from pyramid_jax.evaluation import edge_targets
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import hashes
from pyramid_jax.runs import lock
from pyramid_jax.runs import pretrained as frozen_lib
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.runs import writers as logs
from pyramid_jax.training import hooks as records_lib
from pyramid_jax.training import preemption
from pyramid_jax.training import setup as job_lib
from pyramid_jax.training import step as state_lib


# Steps that the host may be ahead of the device: enough that the device never
# waits, few enough that a step that went wrong is noticed at once.
_AHEAD = 2


def run(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  takeover: bool = False,
) -> None:
  """Trains until `config.train.steps`, or goes on where a run was cut off.

  A config with a first stage and no checkpoint of it trains it first, in
  `WORKDIR/first_stage`.

  Args:
    config: a whole config.
    workdir: see the architecture page for what is written there.
    takeover: use the workdir even if another process seems to.

  Raises:
    UserError: bad or missing input, a workdir that cannot be used, a signal,
      or divergence; `code` is the exit code.
  """
  config_lib.validate(config)
  stages = workdir_lib.stages(config, pathlib.Path(workdir))
  for stage, folder in stages:
    workdir_lib.check_config(stage, folder)
  workdir_lib.check_inputs(stages)
  with contextlib.ExitStack() as stack:
    locks = {}
    for _, folder in reversed(stages):  # the outer folder first
      workdir_lib.make(folder)
      locks[folder] = stack.enter_context(lock.Lock(folder, takeover))
    index, _ = processes.process_part()
    stack.enter_context(logs.copied(workdir, index))
    stop = stack.enter_context(preemption.Preemption())
    for stage, folder in stages:
      _train(stage, folder, stop, locks[folder])


def _train(
  config: ConfigDict,
  workdir: pathlib.Path,
  stop: preemption.Preemption,
  held: lock.Lock,
) -> None:
  """Trains one stage."""
  if stop.requested:
    raise errors.UserError('stopped before the next stage.', errors.RESTART)
  steps = config.train.steps
  if checkpoints.reaches(workdir, steps):
    logging.info('%s has its %d steps', workdir, steps)
    return
  logging.info('training %s in %s', config.name or config.system.name, workdir)
  job = job_lib.prepare(config, workdir)
  _report(job)
  with futures.ThreadPoolExecutor(1) as pool:  # XLA compiles beside
    compiled = pool.submit(_compile, job)
    frozen = frozen_lib.load(job.system, config, job.mesh, workdir)
    edge_targets.check(job.system, job.reader_val, frozen)
    digests = {part: hashes.digest(tree) for part, tree in frozen.items()}
    latent_cache.check(job.reader, digests)
    store = checkpoints.Checkpoints(workdir, config.train.keep, digests)
    state = _restore_or_create(job, store, frozen)
    step = compiled.result()
  workdir_lib.write_record(workdir, config, job.reader.label_names)
  stop.graceful = True
  try:
    with contextlib.closing(store):
      _loop(job, step, state, frozen, store, stop, held)
  finally:
    stop.graceful = False


def _report(job: job_lib.Job) -> None:
  """Prints what is trained, and where its values live."""
  logging.info('mesh: %s', mesh_lib.describe(job.mesh))
  logging.info('%s', sharding.parameter_table(job.state.params))
  logging.info('%s', sharding.table({'state': job.state, 'frozen': job.frozen}))


def _compile(job: job_lib.Job) -> Callable[..., Any]:
  step = state_lib.make_step(
    job.system, job.config, job.reader.finish, job.mesh
  )

  def compiled(batch):
    start = time.monotonic()
    program = state_lib.compile_step(
      step, job.mesh, job.state, job.frozen, batch
    )
    secs = time.monotonic() - start
    logging.info('compiled the train step in %.1f s', secs)
    return program

  first = compiled(job.batch)
  if not job.config.data.buckets:
    return first
  programs = {job.batch['image'].shape: first}

  def run(state, frozen, batch):
    shape = batch['image'].shape
    if shape not in programs:
      programs[shape] = compiled(batch)
    return programs[shape](state, frozen, batch)

  return run


def _restore_or_create(
  job: job_lib.Job, store: checkpoints.Checkpoints, frozen: Mapping[str, Any]
) -> state_lib.TrainState:
  state = store.restore_latest(job.state)
  if state is not None:
    logging.info('going on after step %d', int(state.step))
    return state
  shardings = jax.tree.map(lambda leaf: leaf.sharding, job.state)
  state = initial.place(initial.evaluate(job.create, job.batch), shardings)
  measure = state_lib.make_measure(
    job.system, job.config, job.reader.finish, job.mesh
  )
  measured = jax.jit(measure, out_shardings=shardings.extra)
  return state.replace(extra=measured(state.extra, frozen, job.batch))


def _loop(
  job: job_lib.Job,
  step_fn: Callable[..., Any],
  state: state_lib.TrainState,
  frozen: Mapping[str, Any],
  store: checkpoints.Checkpoints,
  stop: preemption.Preemption,
  held: lock.Lock,
) -> None:
  """Runs the steps that are left; the last one is saved before it returns."""
  train = job.config.train
  first, last = int(state.step), train.steps
  ahead = 0 if mesh_lib.needs_blocking(job.mesh) else _AHEAD
  batches = batches_lib.prefetch(
    job_lib.batches(job.config, job.reader),
    first,
    last,
    lambda batch: mesh_lib.place(job.mesh, batch),
    threads=job.config.data.workers,
  )
  pending: deque[tuple[int, Any]] = deque()
  records = records_lib.Records(job, store, first)
  with batches, contextlib.closing(records):
    for step, batch in enumerate(_told(batches), first + 1):
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        state, metrics = step_fn(state, frozen, batch)
      pending.append((step, metrics))
      held.check()
      due = records_lib.Due.at(step, train)
      stopping = stop.requested and step < last
      wait = stopping or due.evaluate or due.grid or due.save
      while len(pending) > (0 if wait else ahead):
        done, metrics = pending.popleft()
        records.check(done, metrics)
        if records_lib.Due.at(done, train).log and not (wait and done == step):
          records.log(done, metrics)
      if wait:
        records.write(step, state, frozen, metrics, due, stopping)
      if stopping:
        store.wait()
        raise errors.UserError(
          f'stopped after step {step}, which is saved; the same command goes '
          'on from there.',
          errors.RESTART,
        )
  store.wait()


def _told(batches: Iterator[Any]) -> Iterator[Any]:
  """Passes batches on; data that cannot be read ends the run in one line."""
  while True:
    with errors.user_errors(value=errors.DATA):
      batch = next(batches, None)
    if batch is None:
      return
    yield batch
