"""`--mode=sample`: a workdir and conditions in, images on disk out."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import functools
import pathlib
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.commands import requests
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import processes
from pyramid_jax.evaluation import grids
from pyramid_jax.pipeline import opening
from pyramid_jax.runs import lock
from pyramid_jax.runs import sample_files
from pyramid_jax.runs import stopping
from pyramid_jax.runs import watchdog


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Samples images into WORKDIR/samples.

  Writes `%06d.png` as they are made, then `grid.png` (each image with its
  condition), `samples.npz` (`arr_0` (N, H, W, 3) uint8, as the evaluator of ADM
  reads it, and the conditions under their example names) and `latents.npz`
  (`latent_0` is the coarsest scale, which `--coarse_latent` takes). The images
  of the first model of a cascade are in WORKDIR/samples/small.

  A command that was stopped at any moment goes on where it was. Samples of
  another request are replaced once the first images of this one are made.

  Args:
    config: the config of the run.
    workdir: the folder of the run.
    options: the options of the command line: the fields of `Request`,
      `checkpoint_step`, `takeover`, and `upsampler`, the workdir of a run that
      enlarges what this one makes.

  Raises:
    UserError: a condition or option that cannot be served, a folder that cannot
      be written or that another process samples into.
  """
  request = requests.of_options(options)
  folder, upsampler = workdir / 'samples', options.get('upsampler')
  small = [] if upsampler is None else [folder / sample_files.SMALL]
  with (
    stopping.listening(),
    watchdog.of_batches('the weights', config),
    memory.explained(lambda: _less_memory(config, request.count)),
    sample_files.locked(
      [folder, *small], bool(options.get('takeover'))
    ) as held,
  ):
    step = options.get('checkpoint_step')
    pipe = opening.of_run(config, workdir, step, request=request)
    pipes = [pipe]
    if upsampler is not None:
      pipe = opening.with_upsampler(pipe, upsampler)
      pipes += [pipe.upsampler or pipe]
    plan = pipe.plan(request)
    record = requests.record(request, pipes)
    files: list[sample_files.SampleFiles] = []  # of process 0

    def look() -> int:
      with errors.writing(folder):
        for path in [*small, folder]:
          files.append(sample_files.SampleFiles(path, record, plan.count))
      return sample_files.common(files)

    def finish() -> None:
      for file, model in zip(files, pipes, strict=True):
        with errors.writing(folder):
          held.check(now=True)
          file.finish(functools.partial(_grid, model))

    done = processes.decided(look)
    _make(pipe, plan, done, functools.partial(_write, files, done, held))
    processes.decided(finish)
    logging.info(
      '%d images in %s: %%06d.png, grid.png, samples.npz', plan.count, folder
    )


def _less_memory(config: ConfigDict, count: int | None) -> str:
  """Says what sampling holds at a time, and what takes less memory."""
  size = config.sample.batch_size
  rows = -(-min(size, count or config.sample.count) // jax.device_count())
  return (
    f'config.sample.batch_size={size} is {rows} images at a time on a device'
    f'{"" if config.sample.guidance == 1 else ", twice for guidance"}: less is'
    ' needed by a smaller config.sample.batch_size, which does not change the'
    ' images.'
  )


def _make(
  pipe: pipeline.Pipeline,
  plan: pipeline.Plan,
  done: int,
  write: Callable[[pipeline.Made, bool], None],
) -> None:
  """Makes the images that are not there yet, and writes them in process 0.

  `write` is called with some images, and whether they are the first.
  """
  if done:
    logging.info('%d of %d images are there', done, plan.count)
  if done == plan.count:
    return
  batches: Any = pipe.stream(plan, first=done)
  with (
    watchdog.of_batches('the device', pipe.config),
    contextlib.closing(batches),  # its bar ends before an error is said
  ):
    for number, made in enumerate(batches):
      processes.decided(functools.partial(write, made, not number))


def _write(
  files: Sequence[sample_files.SampleFiles],
  done: int,
  held: lock.Held,
  made: pipeline.Made,
  is_first: bool,
) -> None:
  """Writes some images, the first ones after `done` that are there."""
  held.check(now=True)
  parts = [made] if made.small is None else [made.small, made]
  with errors.writing(files[-1].folder):
    if is_first:
      sample_files.start(files, done)
    for file, part in zip(files, parts, strict=True):
      file.add((part.images, part.rows, part.scales))


def _grid(
  pipe: pipeline.Pipeline, images: np.ndarray, rows: Mapping[str, np.ndarray]
) -> np.ndarray:
  task = pipe.config.condition.task
  return grids.draw(images, rows, task, pipe.label_names)
