"""`--mode=sample`: a workdir and conditions in, images on disk out."""

from collections.abc import Mapping
from collections.abc import Sequence
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
from pyramid_jax.evaluation import shuffled
from pyramid_jax.runs import loading
from pyramid_jax.runs import predictors
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib


Rows = dict[str, np.ndarray]
# Rows of conditions that have the size of the images.
_SIZED = ('image', 'inpaint_mask', 'mask', 'sketch', 'edges', 'lr_image')
_GRID = 64  # images of a grid, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """A model, and what it is asked for.

  Attributes:
    pipe: the model.
    rows: of conditions, one an image.
    request: what is asked for beside them.
    folder: where the images are written.
  """

  pipe: pipeline.Pipeline
  rows: Rows
  request: pipeline.Request
  folder: pathlib.Path


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Samples images into WORKDIR/samples.

  Writes `%06d.png`, `grid.png` (each image beside its condition),
  `samples.npz` (`arr_0` (N, H, W, 3) uint8, as the evaluator of ADM reads it,
  and the conditions under their example names) and `latents.npz` (`latent_0`
  is the coarsest scale, which `--coarse_latent` takes). What is known of an
  image with holes is put back into the samples.

  Args:
    config: of the run.
    workdir: of the run.
    options: of the command line: the condition, see `requests.of_request`;
      `image` with `strength` or `mask`, see `requests.edit_of_request`;
      `sketch`, see `requests.sketch_of_request`;
      `count`, `seed`, `split`, `checkpoint_step`; `last_scale`, the last
      scale to sample; `coarse_latent`, a file of finished scales;
      `upsampler`, the workdir of a run that enlarges what this one makes.

  Raises:
    UserError: a condition or option that cannot be served.
  """
  config = predictors.with_maps(config)
  folder = workdir / 'samples'
  upsampler = _upsampler(options.get('upsampler'), config)
  small = folder / 'small' if upsampler else folder
  job = _job(_pipeline(config, workdir, options), options, small)
  if upsampler is None:
    _sample(job)
    return
  larger = _larger(job, upsampler, options, folder)
  rows = {**larger.rows, 'lr_image': _sample(job)}
  _sample(dataclasses.replace(larger, rows=rows))


def _pipeline(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> pipeline.Pipeline:
  """Loads a run.

  Raises:
    UserError: there is none, or it does not sample, or follows no sketch.
  """
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
  """Loads the second model of a cascade, None without one.

  Raises:
    UserError: no run that enlarges images of this one's size.
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


def _job(
  pipe: pipeline.Pipeline, options: Mapping[str, Any], folder: pathlib.Path
) -> Job:
  """Returns what the options ask a model for.

  Raises:
    UserError: a condition or option that cannot be served.
  """
  config = pipe.config
  system: Any = pipe.system
  if options.get('sketch') and 'sketch' not in system.accepts:
    raise errors.UserError(
      '--sketch needs --config.sketch.predictor=DIR, a run of the system'
      " 'sketch' on this one."
    )
  count = options.get('count') or config.sample.count
  seed = options.get('seed')
  with errors.user_errors():
    rows, strength = requests.rows_of(config, pipe.label_names, options, count)
    start: Any = requests.start_of(options.get('coarse_latent'))
    is_plain = strength is None and not options.get('upsampler')
    request = pipeline.request_of(
      system,
      config,
      count=count,
      seed=config.sample.seed if seed is None else seed,
      strength=strength,
      extent=system_lib.Extent(
        start=start,
        last=options.get('last_scale'),
        shape=_shape(config, system, is_plain),
      ),
    )
    rows = shuffled.condition(config, rows)
    pipe.check(rows, request)
  return Job(pipe=pipe, rows=rows, request=request, folder=folder)


def _shape(
  config: ConfigDict, system: system_lib.Generative, is_plain: bool
) -> tuple[int, int] | None:
  """Returns the height and width that are asked for, None for the square.

  Args:
    config: of the run.
    system: of the run.
    is_plain: whether nothing else that is asked for is a square.

  Raises:
    UserError: it can be no other shape.
  """
  shape = tuple(config.sample.get('shape', (0, 0)))
  if shape in ((0, 0), (config.data.image_size,) * 2):
    return None
  if not system.any_shape or not is_plain:
    raise errors.UserError(
      f'config.sample.shape is {shape}, must be (0, 0) but for ladm without'
      ' --image and --upsampler.'
    )
  return shape


def _larger(
  job: Job,
  upsampler: pipeline.Pipeline,
  options: Mapping[str, Any],
  folder: pathlib.Path,
) -> Job:
  """Returns what the second model of a cascade is asked for.

  Its noise is independent of that of the first. Conditions that have the size
  of the small images are left out, as the holes of an image, which are filled
  before it is enlarged.

  Raises:
    UserError: a condition that the second model does not serve.
  """
  config, count = upsampler.config, job.request.count
  with errors.user_errors():
    own = requests.beside_image(config, upsampler.label_names, options)
    request = pipeline.request_of(
      upsampler.system, config, count=count, seed=job.request.seed, stream=1
    )
  kept = {name: x for name, x in job.rows.items() if name not in _SIZED}
  rows = {**kept, **requests.repeated(own, count)}
  return Job(pipe=upsampler, rows=rows, request=request, folder=folder)


def _sample(job: Job) -> np.ndarray:
  """Samples, composes and writes; images are on disk as they come.

  Returns:
    (N, H, W, 3) uint8.
  """
  job.folder.mkdir(parents=True, exist_ok=True)
  images: list[np.ndarray] = []
  scales: list[tuple[np.ndarray, ...]] = []
  done = 0
  for made in job.pipe(job.rows, job.request):
    last = done + len(made.images)
    batch = examples_lib.composite(
      made.images,
      {name: x[done:last] for name, x in job.rows.items()},
      job.pipe.config.sample.project,
    )
    for number, image in enumerate(batch, done):
      grids.save(job.folder / f'{number:06d}.png', image)
    images.append(batch)
    scales.append(made.scales)
    done = last
  whole = np.concatenate(images)
  _write_arrays(
    job, whole, [np.concatenate(z) for z in zip(*scales, strict=True)]
  )
  return whole


def _write_arrays(
  job: Job, images: np.ndarray, scales: Sequence[np.ndarray]
) -> None:
  """Writes the grid and the arrays of all images."""
  task, names = job.pipe.config.condition.task, job.pipe.label_names
  grid = grids.draw(images[:_GRID], job.rows, task, names)
  grids.save(job.folder / 'grid.png', grid)
  _save_npz(job.folder / 'samples.npz', {'arr_0': images, **job.rows})
  latents = {f'latent_{s}': scale for s, scale in enumerate(scales)}
  _save_npz(job.folder / 'latents.npz', latents)
  logging.info(
    '%d images in %s: %%06d.png, grid.png, samples.npz', len(images), job.folder
  )


def _save_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes beside and renames."""
  aside = path.with_name(f'.{path.name}')
  with aside.open('wb') as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]
  aside.rename(path)
