"""Logs, scores, grids and checkpoints of a training run."""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import dataclasses
import functools
from typing import Any
from typing import TypeVar
from typing import cast

from absl import logging
from flax import traverse_util
import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import pipeline
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import processes
from pyramid_jax.evaluation import examples as examples_lib
from pyramid_jax.evaluation import grids
from pyramid_jax.evaluation import scoring
from pyramid_jax.files import whole_files
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import progress
from pyramid_jax.runs import state as run_state
from pyramid_jax.runs import stopping
from pyramid_jax.runs import watchdog
from pyramid_jax.runs import writers
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import diverged
from pyramid_jax.training import setup as setup_lib
from pyramid_jax.training import throughput


F = TypeVar('F', bound=Callable[..., Any])
LIMIT = 'train.hook_limit_secs'
_GRID = 16  # The largest number of images of a grid.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Due:
  """The hooks that are due after a step."""

  log: bool  # Whether a line of metrics is written.
  evaluate: bool  # Whether it has scores of the validation split.
  grid: bool  # Whether a grid of samples is drawn.
  save: bool  # Whether a checkpoint is written.

  @classmethod
  def at(cls, step: int, train: ConfigDict) -> 'Due':
    """Returns the hooks due after `step` by the config's `train` section."""

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


def _transferring(method: F) -> F:
  """Allows a hook what the guard of the loop refuses, transfers."""

  @functools.wraps(method)
  def allowed(*arguments: Any, **named: Any) -> Any:
    with jax.transfer_guard('allow'):
      return method(*arguments, **named)

  return cast(F, allowed)


class Hooks:
  """Logs, checkpoints, scores and previews of a training run."""

  def __init__(
    self,
    setup: setup_lib.Setup,
    store: checkpoints.Checkpoints,
    first: int,
    meter: throughput.Meter,
  ):
    """Opens the files after `first` finished updates."""
    self._setup = setup
    self._store = store
    self._meter = meter
    # Of several processes the first one writes.
    self._writer: writers.MetricWriter | None = None
    if processes.is_main_process():
      self._writer = writers.MetricWriter(setup.workdir, first)
    self._watch = diverged.Watch(setup, store, first)
    train = setup.config.train
    self._bar = progress.Progress(
      range(first, train.steps), train.batch_size, memory=memory.in_use
    )
    # One pipeline a run, so that nothing is compiled twice; the weights follow.
    self._pipe = pipeline.Pipeline(
      setup.system,
      system_lib.Weights(
        params=setup.state.params, frozen=setup.frozen, extra=setup.state.extra
      ),
      setup.mesh,
      setup.config,
      setup.reader.label_names,
    )
    count = min(_GRID, setup.config.sample.batch_size)
    reader = setup.reader_val
    order = batches_lib.Batches(reader, count, seed=0, shuffle=False)
    self._examples = examples_lib.Finisher(
      setup.config, reader, setup.mesh, count
    ).all(order.rows)
    self._score = scoring.during_training(
      self._pipe, setup.settings, setup.config, reader
    )

  def close(self) -> None:
    """Closes the files and logs how many images were skipped."""
    self._bar.close()
    if self._writer is not None:
      self._writer.close()
    skipped = {k: n for k, n in self._setup.reader.report.items() if n}
    if skipped:
      text = ', '.join(f'{n} {reason}' for reason, n in skipped.items())
      logging.warning('images skipped: %s', text)

  def check(self, step: int, metrics: Any, state: run_state.TrainState) -> None:
    """Waits for a step, and reads it and those before where a hook is due.

    See `diverged.Watch.check`; nothing is transferred otherwise.
    """
    writers.check_log()
    jax.block_until_ready(metrics)
    due = Due.at(step, self._setup.config.train)
    is_full = self._watch.add(step, metrics)
    if is_full or due.log or due.evaluate or due.grid or due.save:
      self._watch.check(state)
    self._bar.update()
    self._meter.done(step)

  @_transferring
  def log(
    self, step: int, metrics: Any, scores: Mapping[str, float] | None = None
  ) -> None:
    """Writes the metrics of a step."""
    if self._writer is None:
      return
    values = processes.to_host(metrics)
    del values['finite']
    row = {'loss': values.pop('loss'), **values}
    self._bar.note(f'loss {float(row["loss"]):.4g}')
    row |= {f'eval/{name}': v for name, v in (scores or {}).items()}
    row['images_per_sec'] = self._bar.images_per_sec()
    row['seconds'] = self._bar.seconds()
    if (took := self._store.took()) is not None:
      row['checkpoint_secs'] = took.secs
      row['checkpoint_blocking_secs'] = took.blocking_secs
    self._writer.write_scalars(step, row)
    self._meter.write()

  @_transferring
  def write(
    self,
    step: int,
    state: run_state.TrainState,
    frozen: Mapping[str, Any],
    metrics: Any,
    due: Due,
  ) -> None:
    """Runs the hooks that are due.

    Scores and a preview are given up when a signal asks to stop; then the step
    is saved.
    """
    if due.evaluate or due.grid:
      frozen = self._setup.for_samples(frozen)
    pipe = self._pipe.with_weights(averaged_weights(state, frozen))
    with self._bar.pause(), self._meter.spending('evaluation'):
      scores: Mapping[str, float] = {}
      if due.evaluate:
        with contextlib.suppress(stopping.Stopped), self._watched('scores'):
          scores = stopping.call(self._scores, pipe)
      if due.log:
        self.log(step, metrics, scores)
      if due.grid:
        with contextlib.suppress(stopping.Stopped):
          with self._watched('a grid of images'):
            image = stopping.call(self._preview, pipe)
          self._write_preview(step, image)
      # Last, so that a run that is interrupted before repeats the rest.
      if due.save or stopping.requested():
        self.save(step, metrics, state, scores)

  @_transferring
  def save(
    self,
    step: int,
    metrics: Any,
    state: run_state.TrainState,
    scores: Mapping[str, float] | None = None,
    wait: bool = False,
  ) -> None:
    """Starts to save a step, unless it is saved; waits for its end if asked."""
    self._watch.check_state(step, metrics, state)
    if self._writer is not None:
      self._writer.flush()  # a resume after this step needs its line
    self._meter.write(now=True)
    config, mesh = self._setup.config, self._setup.mesh
    train = config.train
    is_last = stopping.requested() or step == train.steps
    with self._watched('a save'), self._meter.spending('checkpoint'):
      self._store.save(
        state,
        config,
        mesh,
        step * train.batch_size,
        scores,
        self._watch.record(),
        required=is_last or train.on_save_error == 'stop',
      )
      if wait:
        self._store.wait()

  def _watched(self, what: str) -> contextlib.AbstractContextManager[Any]:
    return watchdog.watched(what, watchdog.limit_of(self._setup.config, LIMIT))

  def _scores(self, pipe: pipeline.Pipeline) -> Mapping[str, float]:
    """Scores the model; samples that are not finite give no scores."""
    try:
      scores = self._score(pipe)
    except pipeline.NotFinite as error:
      logging.warning('no scores: %s', error)
      return {}
    if self._writer is None:  # the scores of all are in process 0
      return scores
    texts = (f'{name} {value:.4g}' for name, value in scores.items())
    logging.info('validation: %s', ', '.join(texts))
    best = self._setup.config.train.keep_best
    if best and best not in scores:
      known = ', '.join(scores) or 'none'
      logging.warning('train.keep_best=%s is no score: %s', best, known)
    return scores

  def _preview(self, pipe: pipeline.Pipeline) -> np.ndarray:
    """Draws a grid of samples."""
    examples = self._examples
    return grids.draw(
      pipe.preview(examples.batch, self._setup.settings, len(examples.real)),
      examples.rows,
      self._setup.config.condition.task,
      pipe.label_names,
      real=examples.real,
    )

  def _write_preview(self, step: int, image: np.ndarray) -> None:
    if self._writer is None:
      return
    folder = self._setup.workdir / 'samples'
    whole_files.make_folder(folder, within=self._setup.workdir)
    whole_files.save_png(folder / f'step_{step:08d}.png', image)
    self._writer.write_images(step, {'samples': image})


def averaged_weights(
  state: run_state.TrainState, frozen: Mapping[str, Any]
) -> system_lib.Weights:
  """Returns the weights to sample with, averages in place.

  Devices that have a part of the averages each get as much of them as they have
  of the weights, so that sampling exchanges no more than training.
  """
  return system_lib.Weights(
    params=run_state.averaged(
      state.params, _placed_as(state.params, state.ema)
    ),
    frozen=frozen,
    extra=state.extra,
  )


def _placed_as(params: Any, ema: Any) -> Any:
  """Returns averages in the shardings of their parameters."""
  flat, means = map(traverse_util.flatten_dict, (params, ema))
  places = {
    path: flat[path].sharding
    for path, mean in means.items()
    if not mean.sharding.is_equivalent_to(flat[path].sharding, mean.ndim)
  }
  if not places:
    return ema
  # Of one function, so that its programs are compiled once.
  moved = jax.jit(_same, out_shardings=places)({p: means[p] for p in places})
  return traverse_util.unflatten_dict(means | moved)


def _same(tree: Any) -> Any:
  return tree
