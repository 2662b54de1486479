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
from pyramid_jax.evaluation import score_rows
from pyramid_jax.evaluation import score_table
from pyramid_jax.evaluation import scoring
from pyramid_jax.metrics import inception
from pyramid_jax.runs import loading
from pyramid_jax.runs import predictors


Row = scoring.Row


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
  config = predictors.with_maps(config)
  evaluator = fidelity.find(config)
  samples = options.get('samples')
  split = options.get('split') or 'test'
  if samples:
    rows, about = _score_saved(config, pathlib.Path(samples), split, evaluator)
    folder = pathlib.Path(samples)
    folder = folder if folder.is_dir() else folder.parent
  else:
    step = options.get('checkpoint_step')
    rows, about = _score_checkpoint(config, workdir, split, step, evaluator)
    folder = workdir / 'samples'
  logging.info('scores of %s\n%s', about, score_table.to_markdown(rows))
  score_table.write(folder, about, rows)


def _score_checkpoint(
  config: ConfigDict,
  workdir: pathlib.Path,
  split: str,
  step: int | None,
  evaluator: fidelity.FidEvaluator | None,
) -> tuple[list[Row], str]:
  """Scores what a run makes of the examples of a split."""
  run_ = loading.load(config, workdir, step)
  with errors.user_errors():
    reader = data.create(data.uncached(config), split)
    request = pipeline.request_of(run_.system, config)
  pipe = pipeline.Pipeline(run_.system, run_.weights, run_.mesh, config)
  protocol = scoring.Protocol(
    count=config.evaluate.count,
    # Statistics of whole sets want conditions from all over the split.
    shuffle=evaluator is not None and evaluator.reference is not None,
  )
  evaluation = scoring.Evaluation(pipe, config, reader, protocol)
  scored = evaluation(scoring.maker(pipe, request))
  about = f'{workdir}, step {run_.step}, {protocol.count} images of {split}'
  if predictors.predictor(config):
    about += f', guided by {predictors.predictor(config)}'
  if evaluator is None:
    return scored.rows, about
  more, notes = evaluator.rows(
    image_sources.of_array(scored.images, 'what was made'),
    image_sources.of_array(scored.real, f'the real images of {split}'),
  )
  return [*scored.rows, *more], f'{about}; {notes}'


def _score_saved(
  config: ConfigDict,
  path: pathlib.Path,
  split: str,
  evaluator: fidelity.FidEvaluator | None,
) -> tuple[list[Row], str]:
  """Scores an .npz of --mode=sample or of others, or a folder of images."""
  samples, arrays = image_sources.of_saved(path, config.data.workers)
  if evaluator is None and not arrays:
    raise errors.UserError(
      f'--samples={path}: the folder has no {image_sources.SAMPLES}, and'
      ' without it the conditions of its images are not known; '
      + inception.unavailable('', fidelity.WEIGHTS),
      errors.MISSING,
    )
  about = f'{samples.name}, {samples.count} images'
  if evaluator is None:
    return score_rows.of_saved(config, arrays), about
  # Files of ADM have nothing but these.
  conditions = arrays.keys() - {'arr_0', 'arr_1'}
  rows = score_rows.of_saved(config, arrays) if conditions else []
  real = evaluator.real(config, split, samples.count)
  more, notes = evaluator.rows(samples, real)
  return [*rows, *more], f'{about}; {notes}'
