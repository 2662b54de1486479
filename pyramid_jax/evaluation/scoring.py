"""Scores of what a model makes of the examples of a split."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import cast

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.evaluation import edge_prediction
from pyramid_jax.evaluation import examples as examples_lib
from pyramid_jax.evaluation import image_sources
from pyramid_jax.evaluation import score_table
from pyramid_jax.metrics import bootstrap
from pyramid_jax.pipeline import rows as rows_lib
from pyramid_jax.runs import progress
from pyramid_jax.systems import system as system_lib


Row = bootstrap.Row
# (finished batch on the mesh, (B,) numbers of the images) -> (B, H, W, 3)
# uint8, and the codes of each codebook of a first stage.
Maker = Callable[
  [Mapping[str, Any], np.ndarray], tuple[np.ndarray, list[np.ndarray]]
]
Scores = Callable[[pipeline.Pipeline], dict[str, float]]
QUICK = 200  # images of an evaluation during training
SEED = 17  # of the order of the conditions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
  """The result of an evaluation."""

  rows: list[Row]  # of the table of scores
  images: np.ndarray  # (N, H, W, 3) uint8, as generated
  real: np.ndarray  # (N, H, W, 3) uint8, of the same examples


class Evaluation:
  """Scores on a split; its programs are compiled once."""

  def __init__(
    self,
    pipe: pipeline.Pipeline,
    config: ConfigDict,
    reader: reader_lib.Reader,
    *,
    count: int,
    bounds: bool = True,
    shuffle: bool = False,
  ):
    """Prepares the scores of `count` images; the weights do not matter.

    With `bounds` rows have ceilings and floors, with `shuffle` the examples
    come from all over the split.
    """
    self._config = config
    self._reader = reader
    self._count, self._bounds, self._shuffle = count, bounds, shuffle
    self._outputs = pipe.system.outputs
    self._codebooks: tuple[int, ...] = ()
    if self._outputs == system_lib.RECONSTRUCTIONS:
      first_stage = cast(system_lib.Reconstructing, pipe.system)
      self._codebooks = first_stage.codebooks
    self._finish = examples_lib.finisher(config, reader, pipe.mesh)

  def __call__(self, make: Maker) -> Scored:
    """Makes images of the examples and scores them.

    Raises:
      UserError: the split has fewer examples than are wanted.
    """
    config, count = self._config, self._count
    image_sources.check_count(count, len(self._reader))
    size = min(config.evaluate.batch_size, count)
    source = batches_lib.Batches(self._reader, size, SEED, self._shuffle)
    images, real, rows = [], [], []
    uses = [np.zeros(codes, np.int64) for codes in self._codebooks]
    for step in progress.Progress(range(-(-count // size)), size, 'batch'):
      examples = self._finish(source.at(step))
      made, codes = make(examples.batch, step * size + np.arange(size))
      for use, code in zip(uses, codes, strict=True):
        use += np.bincount(code.ravel(), minlength=len(use))
      project = config.sample.project
      images.append(rows_lib.composite(made, examples.rows, project))
      real.append(examples.real)
      rows.append(examples.rows)
    stacked = {n: np.concatenate([r[n] for r in rows])[:count] for n in rows[0]}
    all_images = np.concatenate(images)[:count]
    all_real = np.concatenate(real)[:count]
    if self._outputs == system_lib.RECONSTRUCTIONS:
      found = score_table.of_reconstructions(all_images, all_real, stacked)
      for scale, use in enumerate(uses):
        found += score_table.of_codebook(scale, use)
    else:
      bound = all_real if self._bounds else None
      names = self._reader.label_names
      found = score_table.of_task(config, names, all_images, bound, stacked)
    return Scored(rows=found, images=all_images, real=all_real)


def maker(pipe: pipeline.Pipeline, settings: pipeline.Settings) -> Maker:
  """Returns the function that makes the images to score.

  It samples by the settings; a first stage reconstructs.
  """
  if pipe.system.outputs == system_lib.RECONSTRUCTIONS:
    return lambda batch, numbers: pipe.reconstruct(batch)
  sample = lambda batch, numbers: pipe.sample(batch, settings, numbers).images
  return lambda batch, numbers: (sample(batch, numbers), [])


def validation_count(config: ConfigDict, there: int) -> int:
  """Returns how many images an evaluation during training scores.

  It takes as many as `there` are in the validation split where that is fewer
  than the config wants; no images are a UserError.
  """
  if there < 1:
    raise errors.UserError('the validation split has no images.', errors.DATA)
  return min(_wanted(config), there)


def few_images(config: ConfigDict, there: int) -> str:
  """Returns a line about a validation split of few images, '' for enough."""
  wanted = _wanted(config)
  if there >= wanted:
    return ''
  return (
    f'the validation split has {there} images: scores during training are of'
    f' these, not of {wanted}'
  )


def _wanted(config: ConfigDict) -> int:
  return min(QUICK, config.evaluate.count)


def during_training(
  pipe: pipeline.Pipeline,
  settings: pipeline.Settings,
  config: ConfigDict,
  reader: reader_lib.Reader,
) -> Scores:
  """Returns a function from a model to scores by name, for a run's curves.

  The reader is that of the validation split; the weights of `pipe` do not
  matter.
  """
  count = validation_count(config, len(reader))
  if pipe.system.outputs == system_lib.PREDICTIONS:
    count = min(count, config.evaluate.batch_size)
    return edge_prediction.scorer(pipe, reader, count)
  evaluation = Evaluation(pipe, config, reader, count=count, bounds=False)

  def scores(pipe: pipeline.Pipeline) -> dict[str, float]:
    rows = evaluation(maker(pipe, settings)).rows
    return {row.name: row.score.value for row in rows}

  return scores
