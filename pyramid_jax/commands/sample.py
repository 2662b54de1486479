"""A workdir and conditions in, images on disk out."""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import pathlib
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import images as data_images
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import examples as examples_lib
from pyramid_jax.evaluation import grids
from pyramid_jax.evaluation import shuffled
from pyramid_jax.runs import loading
from pyramid_jax.runs import predictors as steering
from pyramid_jax.runs import progress
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import system as system_lib


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Samples images into WORKDIR/samples.

  Writes `%06d.png`, `grid.png` (each image beside its condition),
  `samples.npz` (`arr_0` (N, H, W, 3) uint8, as the evaluator of ADM reads it,
  and the conditions under their example names) and `latents.npz` (`latent_0`
  is the coarsest scale, which `--coarse_latent` takes). What is known of a
  picture with holes is put back into the samples.

  Args:
    config: of the run.
    workdir: of the run.
    options: of the command line: the condition, see `examples.of_request`;
      `image` with `strength` or `mask`, see `examples.edit_of_request`;
      `sketch`, see `examples.sketch_of_request`;
      `count`, `seed`, `split`, `checkpoint_step`; `last_scale`, the last
      scale to sample; `coarse_latent`, a file of finished scales;
      `upsampler`, the workdir of a run that enlarges what this one makes.

  Raises:
    UserError: a condition or option that cannot be served.
  """
  config = steering.with_maps(config)
  count = options.get('count') or config.sample.count
  seed = options.get('seed')
  seed = config.sample.seed if seed is None else seed
  run_ = loading.load(config, workdir, options.get('checkpoint_step'))
  system: Any = run_.system
  if isinstance(system, autoencoder.Autoencoder):
    raise errors.UserError(
      f'{workdir} holds a first stage, which reconstructs and does not'
      ' sample; --mode=evaluate measures it.'
    )
  if options.get('sketch') and 'sketch' not in system.accepts:
    raise errors.UserError(
      '--sketch needs --config.sketch.predictor=DIR, a run of the system'
      f" 'sketch' on {workdir}."
    )
  second = _upsampler(options.get('upsampler'), config)
  examples, strength = _conditions(config, workdir, options, count)
  examples = shuffled.condition(config, examples)
  shape = _shape(config, system, strength is None and second is None)
  start = _start(options.get('coarse_latent'), count)
  last = options.get('last_scale')
  with errors.user_errors():
    images, state = _generate(
      system,
      run_.mesh,
      run_.weights,
      examples,
      config,
      count,
      seed,
      start,
      last,
      strength,
      shape,
    )
  folder, names = workdir / 'samples', workdir_lib.read_labels(workdir)
  project = config.sample.project
  images = examples_lib.composite(images, examples, project)
  if second is None:
    _write(folder, config, images, state, examples, names)
    return
  _write(folder / 'small', config, images, state, examples, names)
  config, other = second
  with errors.user_errors():
    asked = examples_lib.of_request(config, names, options) or {}
    asked = {k: np.resize(v, (count, *v.shape[1:])) for k, v in asked.items()}
    examples = {**examples, **asked, 'lr_image': images}
    images, state = _generate(
      other.system,
      other.mesh,
      other.weights,
      examples,
      config,
      count,
      seed,
      [],
      None,
      None,
      None,
    )
  images = examples_lib.composite(images, examples, config.sample.project)
  _write(folder, config, images, state, examples, names)


def _upsampler(
  path: str | None, config: ConfigDict
) -> tuple[ConfigDict, loading.Run] | None:
  """Loads the second model of a cascade, None without one.

  Raises:
    UserError: no run that enlarges pictures of this one's size.
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
  return second, loading.load(second, folder)


def _shape(
  config: ConfigDict, system: Any, is_plain: bool
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


def _generate(
  system: Any,
  mesh: Mesh,
  weights: system_lib.Weights,
  examples: Mapping[str, np.ndarray],
  config: ConfigDict,
  count: int,
  seed: int,
  start: Sequence[np.ndarray],
  last: int | None,
  strength: float | None,
  shape: tuple[int, int] | None,
) -> tuple[np.ndarray, list[np.ndarray]]:
  """Runs the sampler batch by batch; all batches are one program."""
  size = min(config.sample.batch_size, count)

  spec = spec_lib.from_config(config)
  system.check_spec(spec)

  @jax.jit
  def sample(weights, keys, batch, start):
    batch = data_images.finish(batch)
    edit = None
    if strength is not None:
      edit = system_lib.Edit(
        batch['image'], batch.get('inpaint_mask'), strength
      )
    return system_lib.generate(
      system,
      weights,
      keys,
      batch,
      spec,
      edit,
      system_lib.Extent(start=tuple(start), last=last, shape=shape),
    )

  arrays = mesh_lib.numeric(examples)
  place = functools.partial(mesh_lib.spread, mesh)
  batches = -(-count // size)
  bar = progress.Progress(0, batches, size, unit='batch')
  images, states = [], []
  for index in range(batches):
    # The last batch is filled up with its own first rows.
    rows = np.arange(index * size, (index + 1) * size) % count
    numbers = np.arange(index * size, (index + 1) * size)
    made, state = sample(
      weights,
      system_lib.image_keys(seed, numbers),
      place({name: value[rows] for name, value in arrays.items()}),
      list(place({str(s): z[rows] for s, z in enumerate(start)}).values()),
    )
    images.append(grids.to_uint8(made))
    states.append([np.asarray(scale) for scale in state])
    bar.update(index + 1)
  scales = zip(*states, strict=True)
  return (
    np.concatenate(images)[:count],
    [np.concatenate(scale)[:count] for scale in scales],
  )


def _conditions(
  config: ConfigDict,
  workdir: pathlib.Path,
  options: Mapping[str, Any],
  count: int,
) -> tuple[dict[str, np.ndarray], float | None]:
  """Returns `count` rows: what was asked for, or the test split's.

  With them the strength of an edit, None if there is none.
  """
  with errors.user_errors():
    names = workdir_lib.read_labels(workdir)
    edit = examples_lib.edit_of_request(config, options)
    sketch = examples_lib.sketch_of_request(config, options)
    rows = examples_lib.of_request(config, names, options)
    if rows is None and edit is None and sketch is None:
      split = options.get('split') or 'test'
      return examples_lib.of_split(config, split, count), None
  picture, strength = edit or ({}, None)
  rows = (rows or {}) | picture | (sketch or {})
  # In turn, as often as images are asked for.
  return {
    name: np.resize(v, (count, *v.shape[1:])) for name, v in rows.items()
  }, strength


def _start(path: str | None, count: int) -> list[np.ndarray]:
  """Reads the finished scales to build on, coarse first."""
  if not path:
    return []
  with (
    errors.user_errors(value=errors.DATA),
    np.load(path, allow_pickle=False) as file,
  ):
    names = sorted(n for n in file.files if n.startswith('latent_'))
    scales = [file[name] for name in names]
  if not scales:
    raise errors.UserError(
      f'--coarse_latent={path}: has no array latent_0, only'
      f' {sorted(file.files)}.',
      errors.DATA,
    )
  return [
    np.resize(s, (count, *s.shape[1:])).astype(np.float32) for s in scales
  ]


def _write(
  folder: pathlib.Path,
  config: ConfigDict,
  images: np.ndarray,
  state: Sequence[np.ndarray],
  examples: Mapping[str, np.ndarray],
  label_names: Sequence[str],
) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for index, image in enumerate(images):
    grids.save(folder / f'{index:06d}.png', image)
  shown = min(len(images), 64)
  grid = grids.draw(
    images[:shown], examples, config.condition.task, label_names
  )
  grids.save(folder / 'grid.png', grid)
  _save_npz(folder / 'samples.npz', {'arr_0': images, **examples})
  latents = {f'latent_{s}': scale for s, scale in enumerate(state)}
  _save_npz(folder / 'latents.npz', latents)
  logging.info(
    '%d images in %s: %%06d.png, grid.png, samples.npz', len(images), folder
  )


def _save_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes beside and renames."""
  aside = path.with_name(f'.{path.name}')
  with aside.open('wb') as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]
  aside.rename(path)
