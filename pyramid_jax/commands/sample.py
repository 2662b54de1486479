"""`--mode=sample`: a workdir and conditions in, images on disk out."""

from collections.abc import Mapping
import pathlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import pipeline
from pyramid_jax.commands import requests
from pyramid_jax.evaluation import grids
from pyramid_jax.pipeline import opening


_GRID = 64  # images of a grid, at most


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Samples images into WORKDIR/samples.

  Writes `%06d.png`, `grid.png` (each image with its condition), `samples.npz`
  (`arr_0` (N, H, W, 3) uint8, as the evaluator of ADM reads it, and the
  conditions under their example names) and `latents.npz` (`latent_0` is the
  coarsest scale, which `--coarse_latent` takes). The images of the first model
  of a cascade are in WORKDIR/samples/small.

  Args:
    config: the config of the run.
    workdir: the folder of the run.
    options: the options of the command line: the fields of `Request`,
      `checkpoint_step`, and `upsampler`, the workdir of a run that enlarges
      what this one makes.

  Raises:
    UserError: a condition or option that cannot be served.
  """
  request = requests.of_options(options)
  step = options.get('checkpoint_step')
  pipe = opening.of_run(config, workdir, step, request=request)
  folder = workdir / 'samples'
  last, files = pipe, []
  if options.get('upsampler') is not None:
    files = [_Files(folder / 'small', pipe)]
    pipe = opening.with_upsampler(pipe, options['upsampler'])
    last = pipe.upsampler or pipe
  files.append(_Files(folder, last))
  for made in pipe.stream(request):
    parts = [made] if made.small is None else [made.small, made]
    for file, part in zip(files, parts, strict=True):
      file.add(part)
  for file in files:
    file.finish()


class _Files:
  """The files of images, each of which is on disk once its batch is done."""

  def __init__(self, folder: pathlib.Path, pipe: pipeline.Pipeline):
    self._folder = folder
    self._pipe = pipe
    self._made: list[pipeline.Made] = []

  def add(self, made: pipeline.Made) -> None:
    """Writes the images of a batch."""
    self._folder.mkdir(parents=True, exist_ok=True)
    for number, image in zip(made.numbers, made.images, strict=True):
      grids.save(self._folder / f'{number:06d}.png', image)
    self._made.append(made)

  def finish(self) -> None:
    """Writes the grid and the arrays of all images."""
    pipe, folder = self._pipe, self._folder
    images = np.concatenate([made.images for made in self._made])
    rows = {
      name: np.concatenate([made.rows[name] for made in self._made])
      for name in self._made[0].rows
    }
    task = pipe.config.condition.task
    grid = grids.draw(images[:_GRID], rows, task, pipe.label_names)
    grids.save(folder / 'grid.png', grid)
    _save_npz(folder / 'samples.npz', {'arr_0': images, **rows})
    scales = zip(*(made.scales for made in self._made), strict=True)
    latents = map(np.concatenate, scales)
    _save_npz(
      folder / 'latents.npz', {f'latent_{s}': z for s, z in enumerate(latents)}
    )
    logging.info(
      '%d images in %s: %%06d.png, grid.png, samples.npz', len(images), folder
    )


def _save_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes another file and renames it."""
  aside = path.with_name(f'.{path.name}')
  with aside.open('wb') as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]
  aside.rename(path)
