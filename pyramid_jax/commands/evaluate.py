"""`--mode=evaluate`: a run or saved images in, a table of scores out."""

from collections.abc import Mapping
import pathlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.evaluation import fidelity
from pyramid_jax.evaluation import image_sources
from pyramid_jax.evaluation import score_table
from pyramid_jax.evaluation import scoring
from pyramid_jax.metrics import inception
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.runs import loading
from pyramid_jax.runs import predictors


Row = scoring.Row


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Prints and saves the table of scores of a run or of saved samples.

  Writes `scores.json` and `scores.md` into WORKDIR/samples, or where the saved
  samples are. With `write_reference` it writes statistics of real images
  instead, see `fidelity.write_reference`.

  Args:
    config: of the run.
    workdir: of the run.
    options: of the command line: `samples`, an .npz or a folder of images;
      `split`; `checkpoint_step`; `write_reference`.

  Raises:
    UserError: no images to score, or no weights to score them with.
  """
  if options.get('write_reference'):
    fidelity.write_reference(config, options)
    return
  config = predictors.with_maps(config)
  evaluator = fidelity.find(config)
  split = options.get('split') or 'test'
  if options.get('samples'):
    path = pathlib.Path(options['samples'])
    folder = path if path.is_dir() else path.parent
    rows, about, samples = _score_saved(config, path, evaluator is not None)
    if evaluator is not None:
      real = evaluator.real(config, split, samples.count)
  else:
    folder = workdir / 'samples'
    # Statistics of whole sets need conditions from all over the split.
    shuffle = evaluator is not None and evaluator.reference is not None
    step = options.get('checkpoint_step')
    scored, about = _score_run(config, workdir, split, step, shuffle)
    rows = scored.rows
    samples = image_sources.of_array(scored.images, 'the samples')
    real = image_sources.of_array(scored.real, f'the real images of {split}')
  if evaluator is not None:
    more, notes = evaluator.rows(samples, real)
    rows, about = [*rows, *more], f'{about}; {notes}'
  logging.info('scores of %s\n%s', about, score_table.to_markdown(rows))
  score_table.write(folder, about, rows)


def _score_run(
  config: ConfigDict,
  workdir: pathlib.Path,
  split: str,
  step: int | None,
  shuffle: bool,
) -> tuple[scoring.Scored, str]:
  """Scores the samples of a run for the examples of a split."""
  run_ = loading.load(config, workdir, step)
  with errors.user_errors():
    reader = data.create(data.uncached(config), split)
    settings = settings_lib.of_config(run_.system, config)
  pipe = pipeline.Pipeline(run_.system, run_.weights, run_.mesh, config)
  count = config.evaluate.count
  evaluation = scoring.Evaluation(
    pipe, config, reader, count=count, shuffle=shuffle
  )
  about = f'{workdir}, step {run_.step}, {count} images of {split}'
  if predictors.predictor(config):
    about += f', guided by {predictors.predictor(config)}'
  return evaluation(scoring.maker(pipe, settings)), about


def _score_saved(
  config: ConfigDict, path: pathlib.Path, has_evaluator: bool
) -> tuple[list[Row], str, image_sources.Images]:
  """Scores an .npz of --mode=sample or of others, or a folder of images."""
  samples, arrays = image_sources.of_saved(path, config.data.workers)
  if not has_evaluator and not arrays:
    raise errors.UserError(
      f'--samples={path}: the folder has no {image_sources.SAMPLES}, and'
      ' without it the conditions of its images are not known; '
      + inception.unavailable('', fidelity.WEIGHTS),
      errors.MISSING,
    )
  # Files of ADM have no conditions.
  has_rows = not has_evaluator or arrays.keys() - {'arr_0', 'arr_1'}
  rows = score_table.of_saved(config, arrays) if has_rows else []
  return rows, f'{samples.name}, {samples.count} images', samples
