"""`--mode=sample`: a workdir and conditions in, images on disk out."""

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
    with errors.writing(folder):
      files = [
        sample_files.SampleFiles(path, record, plan.count)
        for path in [*small, folder]
      ]
    _make(pipe, plan, files, held)
    for file, model in zip(files, pipes, strict=True):
      with errors.writing(folder):
        held.check(now=True)
        file.finish(functools.partial(_grid, model))
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
  files: Sequence[sample_files.SampleFiles],
  held: lock.Lock,
) -> None:
  """Writes the images that are not there yet."""
  done = sample_files.common(files)
  folder = files[-1].folder
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
      held.check(now=True)
      parts = [made] if made.small is None else [made.small, made]
      with errors.writing(folder):
        if not number:
          sample_files.start(files, done)
        for file, part in zip(files, parts, strict=True):
          file.add((part.images, part.rows, part.scales))


def _grid(
  pipe: pipeline.Pipeline, images: np.ndarray, rows: Mapping[str, np.ndarray]
) -> np.ndarray:
  task = pipe.config.condition.task
  return grids.draw(images, rows, task, pipe.label_names)
