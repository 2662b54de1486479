"""`--mode=sample`: a workdir and conditions in, images on disk out."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.commands import requests
from pyramid_jax.evaluation import examples as examples_lib
from pyramid_jax.evaluation import grids
from pyramid_jax.runs import loading
from pyramid_jax.runs import predictors
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib


Rows = dict[str, np.ndarray]
# Rows of conditions that have the size of the images.
_SIZED = ('image', 'inpaint_mask', 'mask', 'sketch', 'edges', 'lr_image')
_GRID = 64  # images of a grid, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """A model and a request of images from it."""

  pipe: pipeline.Pipeline
  rows: Rows  # The conditions, a row for each image.
  request: pipeline.Request
  folder: pathlib.Path  # The folder of the images.


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Samples images into WORKDIR/samples.

  Writes `%06d.png`, `grid.png` (each image with its condition), `samples.npz`
  (`arr_0` (N, H, W, 3) uint8, as the evaluator of ADM reads it, and the
  conditions under their example names) and `latents.npz` (`latent_0` is the
  coarsest scale, which `--coarse_latent` takes). The known part of an inpainted
  image is put back into the samples.

  Args:
    config: the config of the run.
    workdir: the folder of the run.
    options: the options of the command line: the conditions and edits of
      `requests`; `count`, `seed`, `split`, `checkpoint_step`; `last_scale`, the
      last scale to sample; `coarse_latent`, a file of finished scales;
      `upsampler`, the workdir of a run that enlarges what this one makes.

  Raises:
    UserError: a condition or option that cannot be served.
  """
  config = predictors.with_maps(config)
  folder = workdir / 'samples'
  upsampler = _upsampler(options.get('upsampler'), config)
  small = folder / 'small' if upsampler else folder
  first = _first(_pipeline(config, workdir, options), options, small)
  if upsampler is None:
    _sample(first)
    return
  larger = _larger(first, upsampler, options, folder)
  rows = {**larger.rows, 'lr_image': _sample(first)}
  _sample(dataclasses.replace(larger, rows=rows))


def _pipeline(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> pipeline.Pipeline:
  """Loads a run; one that does not sample is a UserError."""
  run_ = loading.load(config, workdir, options.get('checkpoint_step'))
  system = run_.system
  if system.outputs == system_lib.RECONSTRUCTIONS:
    raise errors.UserError(
      f'{workdir} holds a first stage, which reconstructs and does not'
      ' sample; --mode=evaluate measures it.'
    )
  names = workdir_lib.read_labels(workdir)
  return pipeline.Pipeline(system, run_.weights, run_.mesh, config, names)


def _upsampler(
  path: str | None, config: ConfigDict
) -> pipeline.Pipeline | None:
  """Loads the second model of a cascade, None without a path.

  A run that does not enlarge images of the size of `config` is a UserError.
  """
  if not path:
    return None
  folder = pathlib.Path(path)
  second = workdir_lib.read_config(folder)
  tasks = (second.condition.task, second.condition.also)
  need = config.data.image_size * second.data.lr_factor
  if 'superres' not in tasks or second.data.image_size != need:
    raise errors.UserError(
      f'--upsampler={path}: its condition is {tasks[0]!r}, its image_size'
      f' {second.data.image_size}; needed is a run with superres whose'
      f' image_size is {need}, config.data.lr_factor times that of'
      f' {config.name}.'
    )
  return _pipeline(second, folder, {})


def _first(
  pipe: pipeline.Pipeline, options: Mapping[str, Any], folder: pathlib.Path
) -> Sampling:
  """Returns the request of the options to a model, the first of a cascade."""
  config = pipe.config
  system: Any = pipe.system
  if options.get('sketch') and 'sketch' not in system.accepts:
    raise errors.UserError(
      '--sketch needs --config.sketch.predictor=DIR, a run of the system'
      " 'sketch' on this one."
    )
  seed = options.get('seed')
  count = options.get('count') or config.sample.count
  shape = tuple(config.sample.get('shape', (0, 0)))
  is_square = shape in ((0, 0), (config.data.image_size,) * 2)
  with errors.user_errors():
    rows, strength = requests.rows_of(config, pipe.label_names, options, count)
    is_plain = strength is None and not options.get('upsampler')
    if not is_square and not (system.any_shape and is_plain):
      raise errors.UserError(
        f'config.sample.shape is {shape}, must be (0, 0) but for ladm without'
        ' --image and --upsampler.'
      )
    start: Any = requests.start_of(options.get('coarse_latent'))
    request = pipeline.request_of(
      system,
      config,
      count=count,
      seed=config.sample.seed if seed is None else seed,
      strength=strength,
      extent=system_lib.Extent(
        start=start,
        last=options.get('last_scale'),
        shape=None if is_square else shape,
      ),
    )
    rows = examples_lib.shuffled_condition(config, rows)
    pipe.check(rows, request)
  return Sampling(pipe=pipe, rows=rows, request=request, folder=folder)


def _larger(
  first: Sampling,
  upsampler: pipeline.Pipeline,
  options: Mapping[str, Any],
  folder: pathlib.Path,
) -> Sampling:
  """Returns the request to the second model of a cascade.

  Its noise is independent of that of the first. Conditions that have the size
  of the first images are left out, such as the holes of an image, which are
  filled before it is enlarged.
  """
  config, count = upsampler.config, first.request.count
  with errors.user_errors():
    own = requests.without_image(config, upsampler.label_names, options)
    request = pipeline.request_of(
      upsampler.system, config, count=count, seed=first.request.seed, stream=1
    )
  kept = {name: x for name, x in first.rows.items() if name not in _SIZED}
  rows = {**kept, **requests.repeated(own, count)}
  return Sampling(pipe=upsampler, rows=rows, request=request, folder=folder)


def _sample(sampling: Sampling) -> np.ndarray:
  """Samples (N, H, W, 3) uint8 images and writes all files.

  Each image is on disk as soon as its batch is done.
  """
  pipe, rows, folder = sampling.pipe, sampling.rows, sampling.folder
  folder.mkdir(parents=True, exist_ok=True)
  images: list[np.ndarray] = []
  scales: list[tuple[np.ndarray, ...]] = []
  done = 0
  for made in pipe(rows, sampling.request):
    last = done + len(made.images)
    batch = examples_lib.composite(
      made.images,
      {name: x[done:last] for name, x in rows.items()},
      pipe.config.sample.project,
    )
    for number, image in enumerate(batch, done):
      grids.save(folder / f'{number:06d}.png', image)
    images.append(batch)
    scales.append(made.scales)
    done = last
  whole = np.concatenate(images)
  task = pipe.config.condition.task
  grid = grids.draw(whole[:_GRID], rows, task, pipe.label_names)
  grids.save(folder / 'grid.png', grid)
  _save_npz(folder / 'samples.npz', {'arr_0': whole, **rows})
  latents = map(np.concatenate, zip(*scales, strict=True))
  _save_npz(
    folder / 'latents.npz', {f'latent_{s}': z for s, z in enumerate(latents)}
  )
  logging.info(
    '%d images in %s: %%06d.png, grid.png, samples.npz', len(whole), folder
  )
  return whole


def _save_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes another file and renames it."""
  aside = path.with_name(f'.{path.name}')
  with aside.open('wb') as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]
  aside.rename(path)
