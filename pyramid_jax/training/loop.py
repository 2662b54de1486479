"""Training: `run` checks the input, `_train` builds, `_loop` loops."""

from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import os
import time
from typing import Any

from absl import logging
from clu import parameter_overview
import jax
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.data import prefetching
from pyramid_jax.data.caches import manifests
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import sharding
from pyramid_jax.evaluation import edge_prediction
from pyramid_jax.files import stores
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import hashes
from pyramid_jax.runs import init_from
from pyramid_jax.runs import keep_rules
from pyramid_jax.runs import lock
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import same_start
from pyramid_jax.runs import saving
from pyramid_jax.runs import stopping
from pyramid_jax.runs import watchdog
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.runs import writers
from pyramid_jax.training import export
from pyramid_jax.training import hooks as hooks_lib
from pyramid_jax.training import profiling
from pyramid_jax.training import setup as setup_lib
from pyramid_jax.training import step as step_lib
from pyramid_jax.training import throughput


# Steps that the host may be ahead of the device: enough that the device never
# waits, few enough that a stop does not wait for many.
_AHEAD = 2
_START_LIMIT = 'train.start_limit_secs'


def run(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  takeover: bool = False,
  named: str | None = None,
) -> None:
  """Trains until `config.train.steps`, or resumes an interrupted run.

  A config with a first stage and no checkpoint of it trains it first, in
  `WORKDIR/first_stage`. With `takeover` the workdir is used even if another
  process seems to use it. The files that the config names are recorded by their
  absolute paths, so that later commands work in any folder. `named` is the
  --config of the command, which `throughput.json` has.

  Raises:
    UserError: bad or missing input, a workdir that cannot be used, a signal,
      or divergence; `code` is the exit code.
  """
  config_lib.validate(config)
  config = config_lib.make_absolute(config)
  same_start.check_command(config, os.fspath(stores.absolute(workdir)))
  stages = workdir_lib.stages(config, stores.path(workdir))
  for stage in stages:
    processes.decided(functools.partial(workdir_lib.check_config, *stage))
  workdir_lib.check_inputs(stages)
  with contextlib.ExitStack() as stack:
    stack.enter_context(stopping.listening())
    stack.enter_context(stopping.agreeing())
    locks = {}
    for _, folder in reversed(stages):  # the outer folder first
      processes.decided(functools.partial(workdir_lib.make, folder))
      locks[folder] = stack.enter_context(lock.shared(folder, takeover))
      same_start.check_folder(folder / lock.NAME)
    index, _ = processes.process_part()
    stack.enter_context(writers.copied(workdir, index))
    for stage, folder in stages:
      start = watchdog.limit_of(stage, _START_LIMIT)
      advice = functools.partial(setup_lib.memory_advice, stage)
      with (
        watchdog.watched('the start', start),
        memory.explained(advice),
        throughput.Meter(stage, folder, named) as meter,
      ):
        _train(stage, folder, locks[folder], meter)


def _train(
  config: ConfigDict,
  workdir: stores.Path,
  held: lock.Held,
  meter: throughput.Meter,
) -> None:
  """Trains one stage."""
  stopping.check()
  steps = config.train.steps
  if processes.decided(lambda: checkpoints.reaches(workdir, steps)):
    saving.tidy(workdir, keep_rules.Rules.of_config(config.train))
    logging.info('%s has its %d steps', workdir, steps)
    export.complete(workdir, config)
    return
  logging.info('training %s in %s', config.name or config.system.name, workdir)
  setup = setup_lib.prepare(config, workdir)
  _report(setup)
  leaves = jax.tree.leaves(checkpoints.items_of(setup.state))
  need = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
  what = f'a checkpoint in {workdir}'
  processes.decided(lambda: errors.check_room(what, need, workdir))
  stopping.check()
  with stopping.worker() as pool:  # XLA compiles meanwhile
    compiled = pool.submit(_compile, setup, meter)
    frozen = pretrained.load(setup.system, config, setup.mesh, workdir)
    edge_prediction.check_targets(
      setup.system, setup.reader_val, frozen, setup.mesh
    )
    digests = {part: hashes.digest(tree) for part, tree in frozen.items()}
    manifests.check_makers(setup.reader, digests)
    frozen = setup.for_steps(pretrained.in_use(setup.system, frozen))
    stopping.check()
    rules = keep_rules.Rules.of_config(config.train)
    labels = list(setup.reader.label_names)
    record = {**setup.data.record, workdir_lib.RECORDED_LABELS: labels}
    store = checkpoints.Checkpoints(workdir, rules, digests, record)
    with watchdog.doing('a checkpoint that is read'):
      state = _restore_or_create(setup, store, frozen, digests)
    with watchdog.doing('the compilation'), meter.spending('compile'):
      meter.count(setup)
      step = stopping.wait(compiled)
  processes.decided(lambda: _write_record(setup, held))
  with (
    watchdog.watched('a save', watchdog.limit_of(config, hooks_lib.LIMIT)),
    errors.closing(store),
    stopping.finishing(config.train.grace_secs),
  ):
    state = _loop(setup, step, state, frozen, store, held, meter)
    with meter.spending('checkpoint'):
      store.wait()
    held.check(now=True)
    weights = hooks_lib.averaged_weights(state, frozen)
    export.write(workdir, config, setup.reader.label_names, weights, steps)


def _write_record(setup: setup_lib.Setup, held: lock.Held) -> None:
  """Writes what other commands and a resume read."""
  held.check(now=True)
  names = setup.reader.label_names
  workdir_lib.write_record(setup.workdir, setup.config, names)
  setup.data.save(setup.workdir)


def _report(setup: setup_lib.Setup) -> None:
  """Logs the mesh, the parameters and the shardings of the state."""
  logging.info('mesh: %s', mesh_lib.describe(setup.mesh))
  parameter_overview.log_parameter_overview(
    setup.state.params, include_stats='sharding', jax_logging_process=0
  )
  trees = {'state': setup.state, 'pretrained': setup.step_frozen}
  logging.info(sharding.table(trees, setup.config.mesh.fsdp_min_size))


def _compile(
  setup: setup_lib.Setup, meter: throughput.Meter
) -> Callable[..., Any]:
  step = step_lib.make_step(
    setup.step_system, setup.config, setup.reader.finish, setup.mesh
  )

  def compiled(batch):
    start = time.monotonic()
    arguments = setup.state, setup.step_frozen, batch, setup.options
    program = step_lib.compile_step(step, setup.mesh, *arguments)
    secs = time.monotonic() - start
    logging.info('compiled the train step in %.1f s', secs)
    meter.compiled(secs)
    memory.check_program(program, setup.mesh)
    return program

  first = compiled(setup.batch)
  if not setup.config.data.buckets:
    return first
  programs = {setup.batch['image'].shape: first}

  def run(state, frozen, batch):
    shape = batch['image'].shape
    if shape not in programs:
      limit = watchdog.limit_of(setup.config, _START_LIMIT)
      with (
        watchdog.watched('the compilation', limit),
        meter.spending('compile'),
      ):
        programs[shape] = stopping.call_alone(compiled, batch)
    return programs[shape](state, frozen, batch)

  return run


def _restore_or_create(
  setup: setup_lib.Setup,
  store: checkpoints.Checkpoints,
  frozen: Mapping[str, Any],
  digests: Mapping[str, str],
) -> step_lib.TrainState:
  state = store.restore_latest(setup.state)
  if state is not None:
    step, allow_change = int(state.step), setup.config.data.allow_change
    same_start.check_step(step)
    processes.decided(
      lambda: setup.data.check(setup.workdir, step, allow_change)
    )
    began = processes.decided(
      lambda: checkpoints.record(setup.workdir, step).get(init_from.RECORD)
    )
    store.keep({init_from.RECORD: began} if began else {})
    logging.info('resuming after step %d', step)
    return state
  shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.state)
  state = initial.create(shardings, setup.create)
  if setup.start is not None:
    state, began, is_measured = init_from.begin(setup.start, state, digests)
    store.keep({init_from.RECORD: began})
    if is_measured:
      return state
  measure = step_lib.make_measure(
    setup.step_system, setup.config, setup.reader.finish, setup.mesh
  )
  measured = jax.jit(measure, out_shardings=shardings.extra)
  extra = measured(state.extra, frozen, setup.batch)
  return dataclasses.replace(state, extra=extra)


def _loop(
  setup: setup_lib.Setup,
  step_fn: Callable[..., Any],
  state: step_lib.TrainState,
  frozen: Mapping[str, Any],
  store: checkpoints.Checkpoints,
  held: lock.Held,
  meter: throughput.Meter,
) -> step_lib.TrainState:
  """Runs the steps that are left; returns the last state, which is being saved.

  So is the step that was made when a signal asked to stop.
  """
  train = setup.config.train
  first = int(state.step)
  ahead = 0 if mesh_lib.needs_blocking(setup.mesh) else _AHEAD
  pending: deque[tuple[int, Any]] = deque()
  with (
    _reading(setup, first) as batches,
    errors.closing(hooks_lib.Hooks(setup, store, first, meter)) as hooks,
    errors.closing(profiling.Window(setup, first, meter)) as profile,
    _watched(setup) as watch,
    meter.training(first),
    # Only hooks move data between host and devices; batches come from other
    # threads, which the guard does not concern.
    jax.transfer_guard('disallow_explicit'),
  ):

    def settle(count: int, is_written: bool = False) -> None:
      """Waits for all steps but `count`; `is_written` leaves the last line."""
      while len(pending) > count:
        done, metrics = pending.popleft()
        hooks.check(done, metrics, state)
        watch.beat()
        is_left = is_written and not pending
        if hooks_lib.Due.at(done, train).log and not is_left:
          held.check(now=True)
          hooks.log(done, metrics)

    step = first
    for step, batch in enumerate(meter.fed(_readable(batches)), first + 1):
      profile.before(step, state)
      try:
        with jax.profiler.StepTraceAnnotation('train', step_num=step):
          state, metrics = step_fn(state, frozen, batch)
      except stopping.Stopped:  # while it was compiled
        step -= 1
        break
      pending.append((step, metrics))
      profile.after(step, metrics)
      held.check()
      store.check()
      due = hooks_lib.Due.at(step, train)
      if due.evaluate or due.grid or due.save:
        settle(0, is_written=True)
        held.check(now=True)
        hooks.write(step, state, frozen, metrics, due)
      else:
        settle(ahead)
    settle(0)
    if step == first:
      stopping.check()
    if stopping.requested():
      held.check(now=True)
      hooks.save(step, metrics, state, wait=True)
      raise stopping.together(
        f'{stopping.reason()} after step {step}, which is saved; the same '
        'command goes on from there.'
      )
  return state


def _reading(
  setup: setup_lib.Setup, first: int
) -> contextlib.AbstractContextManager[Iterator[Any]]:
  """Returns the batches of the steps after the first ones, on the mesh."""
  config = setup.config
  return prefetching.prefetch(
    setup_lib.batches(config, setup.reader, setup.mesh),
    first,
    config.train.steps,
    lambda batch: mesh_lib.place(setup.mesh, batch),
    threads=config.data.workers,
  )


def _watched(
  setup: setup_lib.Setup,
) -> contextlib.AbstractContextManager[watchdog.Watch]:
  """Returns the watch of steps; the first one belongs to the start."""
  names = 'train.step_limit_secs', _START_LIMIT
  limits = (watchdog.limit_of(setup.config, name) for name in names)
  return watchdog.watched('the device', *limits)


def _readable(batches: Iterator[Any]) -> Iterator[Any]:
  """Yields batches until a signal asks to stop.

  Data that cannot be read end the run with one line.
  """
  while not stopping.point():
    try:
      with (
        watchdog.doing('the data reader'),
        errors.user_errors(value=errors.DATA),
      ):
        batch = next(batches, None)
    except stopping.Stopped:
      return
    if batch is None:
      return
    yield batch
