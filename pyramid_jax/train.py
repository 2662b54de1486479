"""Training: `run` checks everything, `_train` builds, `_loop` loops."""

from collections import deque
from collections.abc import Callable
from collections.abc import Mapping
from concurrent import futures
import contextlib
import dataclasses
import os
import pathlib
import time
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import evaluate
from pyramid_jax import frozen as frozen_lib
from pyramid_jax import grids
from pyramid_jax import logs
from pyramid_jax import preemption
from pyramid_jax import progress
from pyramid_jax import systems
from pyramid_jax import workdir as workdir_lib
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.scaling import checkpoints
from pyramid_jax.scaling import hashes
from pyramid_jax.scaling import initial
from pyramid_jax.scaling import lock
from pyramid_jax.scaling import mesh as mesh_lib
from pyramid_jax.scaling import sharding
from pyramid_jax.scaling import state as state_lib
from pyramid_jax.systems import system as system_lib


_GRID = 16  # images of a grid, at most
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
    for _, folder in reversed(stages):  # the outer folder first
      workdir_lib.make(folder)
      stack.enter_context(lock.Lock(folder, takeover))
    stack.enter_context(logs.copied(workdir, jax.process_index()))
    stop = stack.enter_context(preemption.Preemption())
    for stage, folder in stages:
      _train(stage, folder, stop)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
  """What a run consists of.

  Attributes:
    config: of this stage.
    workdir: of this stage.
    mesh: the devices.
    system: what is trained.
    reader: of the training split.
    reader_val: of the validation split.
    create: batch -> the state before the first step; traceable.
    batch: a batch on the mesh.
    state: abstract, with shardings.
    frozen: abstract, with shardings.
  """

  config: ConfigDict
  workdir: pathlib.Path
  mesh: Mesh
  system: system_lib.System
  reader: reader_lib.Reader
  reader_val: reader_lib.Reader
  create: Callable[[Any], state_lib.TrainState]
  batch: Mapping[str, jax.Array]
  state: state_lib.TrainState
  frozen: Mapping[str, Any]


def _train(
  config: ConfigDict, workdir: pathlib.Path, stop: preemption.Preemption
) -> None:
  """Trains one stage."""
  if stop.requested:
    raise errors.UserError('stopped before the next stage.', errors.RESTART)
  steps = config.train.steps
  if checkpoints.reaches(workdir, steps):
    logging.info('%s has its %d steps', workdir, steps)
    return
  logging.info('training %s in %s', config.name or config.system.name, workdir)
  job = _prepare(config, workdir)
  _report(job)
  with futures.ThreadPoolExecutor(1) as pool:  # XLA compiles beside
    compiled = pool.submit(_compile, job)
    frozen = frozen_lib.load(job.system, config, job.mesh, workdir)
    digests = {part: hashes.digest(tree) for part, tree in frozen.items()}
    store = checkpoints.Checkpoints(workdir, config.train.keep, digests)
    state = _restore_or_create(job, store)
    step = compiled.result()
  workdir_lib.write_record(workdir, config, job.reader.label_names)
  stop.graceful = True
  try:
    with contextlib.closing(store):
      _loop(job, step, state, frozen, store, stop)
  finally:
    stop.graceful = False


def _prepare(config: ConfigDict, workdir: pathlib.Path) -> _Job:
  """Builds all that needs no weights; what does not fit raises here."""
  with errors.user_errors():
    mesh = mesh_lib.create(config.mesh)
    mesh_lib.check_batch(mesh, config.train.batch_size, config.train.accumulate)
    system = systems.create(config)
    reader = data.create(config, 'train')
    reader_val = data.create(config, 'val')
    batch = mesh_lib.place(mesh, _batches(config, reader).at(0))

    def create(batch):
      return state_lib.create(system, config, reader.finish, batch)

    min_size = config.mesh.fsdp_min_size
    state = sharding.abstract(jax.eval_shape(create, batch), mesh, min_size)
    frozen = frozen_lib.abstract(system, mesh, min_size)
  return _Job(
    config=config,
    workdir=workdir,
    mesh=mesh,
    system=system,
    reader=reader,
    reader_val=reader_val,
    create=create,
    batch=batch,
    state=state,
    frozen=frozen,
  )


def _batches(
  config: ConfigDict, reader: reader_lib.Reader
) -> batches_lib.Batches:
  return batches_lib.Batches(
    reader,
    config.train.batch_size,
    config.train.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def _report(job: _Job) -> None:
  """Prints what is trained, and where its values live."""
  logging.info('mesh: %s', mesh_lib.describe(job.mesh))
  logging.info('%s', sharding.parameter_table(job.state.params))
  logging.info('%s', sharding.table({'state': job.state, 'frozen': job.frozen}))


def _compile(job: _Job) -> Callable[..., Any]:
  start = time.monotonic()
  step = state_lib.make_step(
    job.system, job.config, job.reader.finish, job.mesh
  )
  compiled = state_lib.compile_step(
    step, job.mesh, job.state, job.frozen, job.batch
  )
  secs = time.monotonic() - start
  logging.info('compiled the train step in %.1f s', secs)
  return compiled


def _restore_or_create(
  job: _Job, store: checkpoints.Checkpoints
) -> state_lib.TrainState:
  state = store.restore_latest(job.state)
  if state is not None:
    logging.info('going on after step %d', int(state.step))
    return state
  shardings = jax.tree.map(lambda leaf: leaf.sharding, job.state)
  return initial.place(initial.evaluate(job.create, job.batch), shardings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Due:
  """What happens after a step."""

  log: bool
  evaluate: bool
  grid: bool
  save: bool

  @classmethod
  def at(cls, step: int, train: ConfigDict) -> '_Due':
    def every(steps: int) -> bool:
      return bool(steps) and step % steps == 0

    last = step == train.steps
    scores = every(train.eval_every)
    return cls(
      log=step == 1 or every(train.log_every) or scores or last,
      evaluate=scores,
      grid=every(train.sample_every) or last,
      save=every(train.checkpoint_every) or last,
    )


def _loop(
  job: _Job,
  step_fn: Callable[..., Any],
  state: state_lib.TrainState,
  frozen: Mapping[str, Any],
  store: checkpoints.Checkpoints,
  stop: preemption.Preemption,
) -> None:
  """Runs the steps that are left; the last one is saved before it returns."""
  train = job.config.train
  first, last = int(state.step), train.steps
  ahead = 0 if mesh_lib.needs_blocking(job.mesh) else _AHEAD
  batches = batches_lib.prefetch(
    _batches(job.config, job.reader),
    first,
    last,
    lambda batch: mesh_lib.place(job.mesh, batch),
    threads=job.config.data.workers,
  )
  pending: deque[tuple[int, Any]] = deque()
  with batches, contextlib.closing(_Records(job, store, first)) as records:
    for step, batch in enumerate(batches, first + 1):
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        state, metrics = step_fn(state, frozen, batch)
      pending.append((step, metrics))
      due = _Due.at(step, train)
      stopping = stop.requested and step < last
      wait = stopping or due.evaluate or due.grid or due.save
      while len(pending) > (0 if wait else ahead):
        done, metrics = pending.popleft()
        records.check(done, metrics)
        if _Due.at(done, train).log and not (wait and done == step):
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


class _Records:
  """What the loop leaves on disk and on the terminal."""

  def __init__(self, job: _Job, store: checkpoints.Checkpoints, first: int):
    self._job = job
    self._store = store
    self._writer = logs.MetricWriter(job.workdir, first)
    train = job.config.train
    self._bar = progress.Progress(first, train.steps, train.batch_size)
    self._draw = _grid_maker(job)
    self._score = evaluate.during_training(
      job.system, job.config, job.reader_val, job.mesh
    )

  def close(self) -> None:
    self._writer.close()
    skipped = {k: n for k, n in self._job.reader.report.items() if n}
    if skipped:
      text = ', '.join(f'{n} {reason}' for reason, n in skipped.items())
      logging.warning('images skipped: %s', text)

  def check(self, step: int, metrics: Any) -> None:
    """Waits for a step, and ends the run if its numbers are not numbers."""
    if float(metrics['finite']):
      self._bar.update(step)
      return
    self._store.wait()
    good = next(iter(checkpoints.steps(self._job.workdir)), None)
    raise errors.UserError(
      f'the loss or a gradient is not finite in step {step} (loss '
      f'{float(metrics["loss"])}); last good checkpoint: '
      f'{"none" if good is None else f"step {good}"}.',
      errors.DIVERGED,
    )

  def log(
    self, step: int, metrics: Any, scores: Mapping[str, float] | None = None
  ) -> None:
    """Writes the line of a step."""
    values = jax.device_get(metrics)
    del values['finite']
    row = {'loss': values.pop('loss'), **values}
    row |= {f'eval/{name}': v for name, v in (scores or {}).items()}
    row['images_per_sec'] = self._bar.images_per_sec()
    row['seconds'] = self._bar.seconds()
    self._writer.write_scalars(step, row)

  def write(
    self,
    step: int,
    state: state_lib.TrainState,
    frozen: Mapping[str, Any],
    metrics: Any,
    due: _Due,
    stopping: bool,
  ) -> None:
    """Does what is due; when stopping, only what must not be lost."""
    job = self._job
    weights = system_lib.Weights(
      params=state_lib.averaged(state.params, state.ema),
      frozen=frozen,
      extra=state.extra,
    )
    with self._bar.pause():
      scores: Mapping[str, float] = {}
      if due.evaluate and not stopping:
        scores = self._score(weights)
        logging.info('validation: %s', _short(scores))
      if due.log:
        self.log(step, metrics, scores)
      if due.grid and not stopping:
        grid = self._draw(step, weights)
        self._writer.write_images(step, {'samples': grid})
      # Last, so that a run that is cut off before does the rest again.
      if due.save or stopping:
        position = step * job.config.train.batch_size
        self._store.save(state, job.config, job.mesh, position)


def _short(scores: Mapping[str, float]) -> str:
  return ', '.join(f'{name} {value:.4g}' for name, value in scores.items())


def _grid_maker(
  job: _Job,
) -> Callable[[int, system_lib.Weights], np.ndarray]:
  """Returns a function that draws and saves the grid of a step."""
  count = min(_GRID, job.config.sample.batch_size)
  host = batches_lib.Batches(job.reader_val, count, seed=0, shuffle=False).at(0)
  arrays = mesh_lib.spread(job.mesh, host)

  @jax.jit
  def preview(weights, batch):
    batch = job.reader_val.finish(batch)
    key = jax.random.key(job.config.sample.seed)
    return job.system.preview(weights, key, batch), batch['image']

  def draw(step: int, weights: system_lib.Weights) -> np.ndarray:
    images, real = jax.device_get(preview(weights, arrays))
    image = grids.draw(
      grids.to_uint8(images),
      host,
      job.config.condition.task,
      job.reader.label_names,
      real=grids.to_uint8(real),
    )
    grids.save(job.workdir / 'samples' / f'step_{step:08d}.png', image)
    return image

  return draw
