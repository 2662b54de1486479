"""Scores: of a checkpoint, of a folder of images, of saved samples."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import pathlib
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import examples as examples_lib
from pyramid_jax.evaluation import fidelity
from pyramid_jax.evaluation import grids
from pyramid_jax.evaluation import image_sources as pictures_lib
from pyramid_jax.evaluation import score_rows
from pyramid_jax.evaluation import score_table
from pyramid_jax.evaluation import shuffled
from pyramid_jax.metrics import inception
from pyramid_jax.metrics import obedience
from pyramid_jax.networks.layers import quantizer
from pyramid_jax.runs import loading
from pyramid_jax.runs import predictors as steering
from pyramid_jax.runs import progress
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.sketch import sketch


Row = obedience.Row
# (weights, key, finished batch) -> images in [-1, 1], codes counted by scale
Maker = Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]]
QUICK = 200  # images of an evaluation during training
SEED = 17  # of the order of the conditions


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Prints and saves the table of scores of a run or of saved samples.

  Writes `scores.json` and `scores.md` into WORKDIR/samples, or beside the
  samples that `options['samples']` names. With `options['write_reference']`
  it writes statistics of real images instead, see `fidelity`.

  Args:
    config: of the run.
    workdir: of the run.
    options: of the command line: `samples`, an .npz or a folder of images;
      `split`; `checkpoint_step`; `write_reference`.

  Raises:
    UserError: nothing to score, or nothing to score it with.
  """
  if options.get('write_reference'):
    fidelity.write_reference(config, options)
    return
  config = steering.with_maps(config)
  judge = fidelity.find(config)
  samples = options.get('samples')
  split = options.get('split') or 'test'
  if samples:
    rows, about = _score_saved(config, pathlib.Path(samples), split, judge)
    folder = pathlib.Path(samples)
    folder = folder if folder.is_dir() else folder.parent
  else:
    rows, about = _score_checkpoint(
      config, workdir, split, options.get('checkpoint_step'), judge
    )
    folder = workdir / 'samples'
  logging.info('scores of %s\n%s', about, score_table.to_markdown(rows))
  score_table.write(folder, about, rows)


Scorer = Callable[[system_lib.Weights], dict[str, float]]


def during_training(
  system: system_lib.Trainable, config: ConfigDict, reader: Any, mesh: Mesh
) -> Scorer:
  """Returns a function from weights to scores by name, for a run's curves.

  Args:
    system: what is trained.
    config: of the run.
    reader: of the validation split.
    mesh: where the weights are.
  """
  count = min(QUICK, config.evaluate.count)
  if isinstance(system, sketch.Sketch):  # samples of it would be the base's
    count = min(count, config.evaluate.batch_size)
    return steering.scorer(system, reader, mesh, count)
  make = _maker(system, config)  # compiled once, at the first call

  def of_weights(weights: system_lib.Weights) -> dict[str, float]:
    rows, _, _ = score(
      system, make, config, reader, mesh, weights, count, bounds=False
    )
    return {row.name: row.score.value for row in rows}

  return of_weights


def _score_checkpoint(
  config: ConfigDict,
  workdir: pathlib.Path,
  split: str,
  step: int | None,
  judge: fidelity.Judge | None,
) -> tuple[list[Row], str]:
  run_ = loading.load(config, workdir, step)
  with errors.user_errors():
    reader = data.create(data.uncached(config), split)
  count = config.evaluate.count
  rows, images, real = score(
    run_.system,
    _maker(run_.system, config),
    config,
    reader,
    run_.mesh,
    run_.weights,
    count,
    bounds=True,
    # Statistics of whole sets want conditions from all over the split.
    shuffle=judge is not None and judge.standard is not None,
  )
  about = f'{workdir}, step {run_.step}, {count} images of {split}'
  if steering.predictor(config):
    about += f', steered by {steering.predictor(config)}'
  if judge is None:
    return rows, about
  more, notes = judge.rows(
    pictures_lib.of_array(images, 'what was made'),
    pictures_lib.of_array(real, f'the real images of {split}'),
  )
  return [*rows, *more], f'{about}; {notes}'


def score(
  system: system_lib.Trainable,
  make: Maker,
  config: ConfigDict,
  reader: Any,
  mesh: Mesh,
  weights: system_lib.Weights,
  count: int,
  bounds: bool,
  shuffle: bool = False,
) -> tuple[list[Row], np.ndarray, np.ndarray]:
  """Reconstructs or samples `count` images and scores them.

  Args:
    system: of the run.
    make: what makes the images.
    config: of the run.
    reader: of the split.
    mesh: where the weights are.
    weights: of the system.
    count: images.
    bounds: whether rows have ceilings and floors.
    shuffle: whether the examples come from all over the split.

  Returns:
    The rows, the images that were made, and the real ones of their examples.
  """
  finish = jax.jit(reader.finish)
  task = config.condition.task
  images, real, examples = [], [], []
  counts: Any = None
  for index, batch in enumerate(_batches(config, reader, count, shuffle)):
    finished = finish(mesh_lib.spread(mesh, batch))
    finished = shuffled.condition(config, finished)
    size = finished['image'].shape[0]
    numbers = np.arange(index * size, (index + 1) * size)
    keys = system_lib.image_keys(config.sample.seed, numbers)
    made, more = make(weights, keys, finished)
    counts = more if counts is None else jax.tree.map(np.add, counts, more)
    example = examples_lib.seen(batch, examples_lib.pictures(task, finished))
    whole = grids.to_uint8(made)
    images.append(examples_lib.composite(whole, example, config.sample.project))
    real.append(grids.to_uint8(finished['image']))
    examples.append(example)
  stacked = {
    name: np.concatenate([e[name] for e in examples])[:count]
    for name in examples[0]
  }
  all_images = np.concatenate(images)[:count]
  all_real = np.concatenate(real)[:count]
  if isinstance(system, autoencoder.Autoencoder):
    codes = [score_rows.of_codebook(s, c) for s, c in enumerate(counts)]
    rows = score_rows.of_reconstructions(all_images, all_real, stacked)
    rows += [row for scale in codes for row in scale]
  else:
    bound = all_real if bounds else None
    names = reader.label_names
    rows = score_rows.of_task(config, names, all_images, bound, stacked)
  return rows, all_images, all_real


def _maker(system: Any, config: ConfigDict) -> Maker:
  if isinstance(system, autoencoder.Autoencoder):
    return _reconstruct(system)
  return _sample(system, spec_lib.from_config(config))


def _sample(system: system_lib.Generative, spec: spec_lib.SamplerSpec) -> Maker:
  @jax.jit
  def sample(weights, keys, batch):
    return system_lib.generate(system, weights, keys, batch, spec)[0], ()

  return sample


def _reconstruct(system: autoencoder.Autoencoder) -> Maker:
  @jax.jit
  def reconstruct(weights, key, batch):
    del key
    images, codes = system.reconstruct(weights, batch['image'])
    sizes = system.model.codebook_sizes
    counts = [
      quantizer.code_counts(c, n) for c, n in zip(codes, sizes, strict=True)
    ]
    return images, counts

  return reconstruct


def _batches(
  config: ConfigDict, reader: Any, count: int, shuffle: bool
) -> Iterator[dict[str, np.ndarray]]:
  """Yields host batches of the split, enough for `count` images."""
  pictures_lib.check_count(count, len(reader))
  size = min(config.evaluate.batch_size, count)
  source = batches_lib.Batches(reader, size, SEED, shuffle)
  bar = progress.Progress(0, -(-count // size), size, unit='batch')
  for step in range(-(-count // size)):
    yield source.at(step)
    bar.update(step + 1)


def _score_saved(
  config: ConfigDict,
  path: pathlib.Path,
  split: str,
  judge: fidelity.Judge | None,
) -> tuple[list[Row], str]:
  """Scores an .npz of --mode=sample or of others, or a folder of images."""
  samples, arrays = pictures_lib.of_saved(path, config.data.workers)
  if judge is None and not arrays:
    raise errors.UserError(
      f'--samples={path}: the folder has no {pictures_lib.SAMPLES}, and without'
      ' it the conditions of its images are not known; '
      + inception.unavailable('', fidelity.WEIGHTS),
      errors.MISSING,
    )
  about = f'{samples.name}, {samples.count} images'
  if judge is None:
    return score_rows.of_saved(config, arrays), about
  told = arrays.keys() - {'arr_0', 'arr_1'}  # files of ADM have but these
  rows = score_rows.of_saved(config, arrays) if told else []
  real = judge.real(config, split, samples.count)
  more, notes = judge.rows(samples, real)
  return [*rows, *more], f'{about}; {notes}'
