"""Scores: of a checkpoint, of a folder of images, of saved samples."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import json
import pathlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import examples as examples_lib
from pyramid_jax import grids
from pyramid_jax import loading
from pyramid_jax import progress
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data.shapes import render as shapes_render
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import image_quality
from pyramid_jax.metrics import obedience
from pyramid_jax.metrics import restoration
from pyramid_jax.networks.layers import quantizer
from pyramid_jax.scaling import mesh as mesh_lib
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import system as system_lib


Row = obedience.Row
Score = bootstrap.Score
# (weights, key, finished batch) -> images in [-1, 1], codes counted by scale
Maker = Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]]
QUICK = 200  # images of an evaluation during training
_SEED = 17  # of the order of the conditions


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Prints and saves the table of scores of a run or of saved samples.

  Writes `scores.json` and `scores.md` into WORKDIR/samples, or beside the
  samples that `options['samples']` names.

  Args:
    config: of the run.
    workdir: of the run.
    options: of the command line: `samples`, an .npz or a folder of images;
      `split`; `checkpoint_step`.

  Raises:
    UserError: nothing to score, or nothing to score it with.
  """
  samples = options.get('samples')
  split = options.get('split') or 'test'
  if samples:
    rows, about = _score_saved(config, pathlib.Path(samples), split)
    folder = pathlib.Path(samples)
    folder = folder if folder.is_dir() else folder.parent
  else:
    rows, about = _score_checkpoint(
      config, workdir, split, options.get('checkpoint_step')
    )
    folder = workdir / 'samples'
  table = to_markdown(rows)
  logging.info('scores of %s\n%s', about, table)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'scores.md').write_text(f'{about}\n\n{table}')
  (folder / 'scores.json').write_text(
    json.dumps({'about': about, 'scores': to_json(rows)}, indent=2) + '\n'
  )


Scorer = Callable[[system_lib.Weights], dict[str, float]]


def during_training(
  system: system_lib.System, config: ConfigDict, reader: Any, mesh: Mesh
) -> Scorer:
  """Returns a function from weights to scores by name, for a run's curves.

  Args:
    system: what is trained.
    config: of the run.
    reader: of the validation split.
    mesh: where the weights are.
  """
  make = _maker(system)  # compiled once, at the first call
  count = min(QUICK, config.evaluate.count)

  def score(weights: system_lib.Weights) -> dict[str, float]:
    rows = _score(
      system, make, config, reader, mesh, weights, count, bounds=False
    )
    return {row.name: row.score.value for row in rows}

  return score


def _score_checkpoint(
  config: ConfigDict, workdir: pathlib.Path, split: str, step: int | None
) -> tuple[list[Row], str]:
  run_ = loading.load(config, workdir, step)
  with errors.user_errors():
    reader = data.create(config, split)
  count = config.evaluate.count
  rows = _score(
    run_.system,
    _maker(run_.system),
    config,
    reader,
    run_.mesh,
    run_.weights,
    count,
    bounds=True,
  )
  return rows, f'{workdir}, step {run_.step}, {count} images of {split}'


def _score(
  system: system_lib.System,
  make: Maker,
  config: ConfigDict,
  reader: Any,
  mesh: Mesh,
  weights: system_lib.Weights,
  count: int,
  bounds: bool,
) -> list[Row]:
  """Reconstructs or samples `count` images and scores them."""
  finish = jax.jit(reader.finish)
  task = config.condition.task
  images, real, examples = [], [], []
  counts: Any = None
  for index, batch in enumerate(_batches(config, reader, count)):
    finished = finish(mesh_lib.spread(mesh, batch))
    key = jax.random.fold_in(jax.random.key(config.sample.seed), index)
    made, more = make(weights, key, finished)
    counts = more if counts is None else jax.tree.map(np.add, counts, more)
    example = examples_lib.seen(batch, examples_lib.pictures(task, finished))
    images.append(examples_lib.composite(grids.to_uint8(made), example))
    real.append(grids.to_uint8(finished['image']))
    examples.append(example)
  stacked = {
    name: np.concatenate([e[name] for e in examples])[:count]
    for name in examples[0]
  }
  all_images = np.concatenate(images)[:count]
  all_real = np.concatenate(real)[:count]
  if isinstance(system, autoencoder.Autoencoder):
    codes = [_codebook_rows(s, c) for s, c in enumerate(counts)]
    rows = _reconstruction_rows(reader, all_images, all_real, stacked)
    return [*rows, *(row for scale in codes for row in scale)]
  whole = all_real if bounds else None
  return _task_rows(config, reader.label_names, all_images, whole, stacked)


def _maker(system: system_lib.System) -> Maker:
  if isinstance(system, autoencoder.Autoencoder):
    return _reconstruct(system)
  return _sample(system)


def _sample(system: system_lib.System) -> Maker:
  @jax.jit
  def sample(weights, key, batch):
    count = batch['image'].shape[0]
    return system_lib.generate(system, weights, key, batch, count)[0], ()

  return sample


def _reconstruct(system: autoencoder.Autoencoder) -> Maker:
  @jax.jit
  def reconstruct(weights, key, batch):
    del key
    images, codes = system.reconstruct(weights, batch['image'])
    sizes = autoencoder.codebooks(system.model)
    counts = [
      quantizer.code_counts(c, n) for c, n in zip(codes, sizes, strict=True)
    ]
    return images, counts

  return reconstruct


def _batches(
  config: ConfigDict, reader: Any, count: int
) -> Iterator[dict[str, np.ndarray]]:
  """Yields host batches of the split, enough for `count` images."""
  if count > len(reader):
    raise errors.UserError(
      f'config.evaluate.count is {count}, the split has {len(reader)} images.'
    )
  size = min(config.evaluate.batch_size, count)
  source = batches_lib.Batches(reader, size, seed=_SEED, shuffle=False)
  bar = progress.Progress(0, -(-count // size), size, unit='batch')
  for step in range(-(-count // size)):
    yield source.at(step)
    bar.update(step + 1)


def _task_rows(
  config: ConfigDict,
  label_names: Sequence[str] | None,
  images: np.ndarray,
  real: np.ndarray | None,
  examples: Mapping[str, np.ndarray],
) -> list[Row]:
  """Scores samples, beside their bounds where there are real pictures."""
  task = config.condition.task
  if config.data.name == 'shapes':
    if real is not None and len(images) > 1:
      seed = config.data.seed
      return obedience.with_bounds(task, images, examples, real, seed)
    scores = obedience.scores(task, images, examples, label_names)
    return [Row(name, score, None, None) for name, score in scores.items()]
  if task not in restoration.TASKS:
    return _no_scores()
  scores = restoration.scores(task, images, examples)
  if 'image' not in examples:
    return [Row(name, score, None, None) for name, score in scores.items()]
  whole = examples['image']
  ceiling = restoration.scores(task, whole, examples)
  plain = restoration.baseline(task, examples, whole.shape[1:3])
  floor = restoration.scores(task, plain, examples)
  return [Row(n, s, ceiling[n], floor[n]) for n, s in scores.items()]


def _no_scores() -> list[Row]:
  logging.warning(
    'no score of samples: the analytic detector knows shapes only, and no'
    ' feature network is given for FID.'
  )
  return []


def _reconstruction_rows(
  reader: Any,
  images: np.ndarray,
  real: np.ndarray,
  examples: Mapping[str, np.ndarray],
) -> list[Row]:
  del reader
  if 'geometry' in examples:  # shapes: objects can be found again
    values = obedience.reconstruction_scores(images, real, examples)
  else:
    values = {
      'psnr': bootstrap.mean(image_quality.psnr(images, real)),
      'ssim': bootstrap.mean(image_quality.ssim(images, real)),
    }
  return [Row(name, score, None, None) for name, score in values.items()]


def _codebook_rows(scale: int, counts: Any) -> list[Row]:
  counts = np.asarray(counts)
  exact = lambda v: Score(float(v), float(v), float(v), int(counts.sum()))
  perplexity = exact(quantizer.perplexity(counts))
  dead = exact(quantizer.dead_codes(counts))
  return [
    Row(f'perplexity_{scale}', perplexity, None, None),
    Row(f'dead_codes_{scale}', dead, None, None),
  ]


def _score_saved(
  config: ConfigDict, path: pathlib.Path, split: str
) -> tuple[list[Row], str]:
  """Scores an .npz of --mode=sample, or a folder of images."""
  if not path.exists():
    raise errors.UserError(f'--samples={path}: not there.', errors.MISSING)
  if path.is_dir():
    saved = path / 'samples.npz'
    if not saved.is_file():
      raise errors.UserError(
        f'--samples={path}: the folder has no samples.npz, and without it the'
        ' conditions of its images are not known.',
        errors.MISSING,
      )
    path = saved
  with (
    errors.user_errors(value=errors.DATA),
    np.load(path, allow_pickle=False) as file,
  ):
    arrays = {name: file[name] for name in file.files}
  if 'arr_0' not in arrays:
    raise errors.UserError(
      f'--samples={path}: has no array arr_0, only {sorted(arrays)}.',
      errors.DATA,
    )
  images = arrays.pop('arr_0')
  about = f'{path}, {len(images)} images'
  del split
  with errors.user_errors(value=errors.DATA):
    real = _whole_pictures(arrays, images.shape[1])
    return _task_rows(config, None, images, real, arrays), about


def _whole_pictures(
  arrays: Mapping[str, np.ndarray], size: int
) -> np.ndarray | None:
  """Returns the real pictures of saved conditions, if they tell."""
  if 'geometry' in arrays:  # a scene of shapes, drawn again
    spec = {name: jnp.asarray(arrays[name]) for name in shapes_render.SPEC}
    return np.asarray(shapes_render.image(spec, size)).astype(np.uint8)
  return arrays.get('image')


def to_markdown(rows: Sequence[Row]) -> str:
  """Returns the table: score, its 95 % interval, ceiling and floor."""
  lines = [
    '| score | value | 95 % interval | ceiling | floor | n |',
    '|---|---|---|---|---|---|',
  ]
  number = lambda s: '-' if s is None else f'{s.value:.4g}'
  for row in rows:
    s = row.score
    lines.append(
      f'| {row.name} | {s.value:.4g} | {s.low:.4g} .. {s.high:.4g} |'
      f' {number(row.ceiling)} | {number(row.floor)} | {s.n} |'
    )
  return '\n'.join(lines) + '\n'


def to_json(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
  """Returns {name: {value, low, high, n, ceiling, floor}}."""
  value = lambda s: None if s is None else s.value
  return {
    row.name: {
      'value': row.score.value,
      'low': row.score.low,
      'high': row.score.high,
      'n': row.score.n,
      'ceiling': value(row.ceiling),
      'floor': value(row.floor),
    }
    for row in rows
  }
