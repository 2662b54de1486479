"""What a training run leaves on disk and on the terminal, and when."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import examples as examples_lib
from pyramid_jax.evaluation import grids
from pyramid_jax.evaluation import scoring as evaluate
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import progress
from pyramid_jax.runs import state as run_state
from pyramid_jax.runs import writers as logs
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training.setup import Job


_GRID = 16  # images of a grid, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Due:
  """What happens after a step.

  Attributes:
    log: a line of metrics.
    evaluate: scores of the validation split, in that line.
    grid: a picture.
    save: a checkpoint.
  """

  log: bool
  evaluate: bool
  grid: bool
  save: bool

  @classmethod
  def at(cls, step: int, train: ConfigDict) -> 'Due':
    """Returns what is due after `step` by the config's `train` section."""

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


class Records:
  """What the loop leaves on disk and on the terminal."""

  def __init__(self, job: Job, store: checkpoints.Checkpoints, first: int):
    """Opens the files.

    Args:
      job: what is trained.
      store: its checkpoints.
      first: finished updates.
    """
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
    """Closes the files and tells what data was skipped."""
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
    with errors.user_errors(missing=errors.OUTPUT):
      self._writer.write_scalars(step, row)

  def write(
    self,
    step: int,
    state: run_state.TrainState,
    frozen: Mapping[str, Any],
    metrics: Any,
    due: Due,
    stopping: bool,
  ) -> None:
    """Does what is due; when stopping, only what must not be lost."""
    job = self._job
    weights = system_lib.Weights(
      params=run_state.averaged(state.params, state.ema),
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
  job: Job,
) -> Callable[[int, system_lib.Weights], np.ndarray]:
  """Returns a function that draws and saves the grid of a step."""
  task = job.config.condition.task
  count = min(_GRID, job.config.sample.batch_size)
  host = batches_lib.Batches(job.reader_val, count, seed=0, shuffle=False).at(0)
  arrays = mesh_lib.spread(job.mesh, host)

  @jax.jit
  def preview(weights, batch):
    batch = job.reader_val.finish(batch)
    keys = system_lib.image_keys(job.config.sample.seed, np.arange(count))
    spec = spec_lib.from_config(job.config)
    images = job.system.preview(weights, keys, batch, spec)
    return images, batch['image'], examples_lib.pictures(task, batch)

  def draw(step: int, weights: system_lib.Weights) -> np.ndarray:
    images, real, drawn = jax.device_get(preview(weights, arrays))
    image = grids.draw(
      grids.to_uint8(images),
      examples_lib.seen(host, drawn),
      task,
      job.reader.label_names,
      real=grids.to_uint8(real),
    )
    with errors.user_errors(missing=errors.OUTPUT):
      grids.save(job.workdir / 'samples' / f'step_{step:08d}.png', image)
    return image

  return draw
