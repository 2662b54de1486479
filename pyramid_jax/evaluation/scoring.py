"""Scores of what a model makes of the examples of a split."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import cast

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import pipeline
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.evaluation import examples as examples_lib
from pyramid_jax.evaluation import image_sources
from pyramid_jax.evaluation import predictions
from pyramid_jax.evaluation import score_rows
from pyramid_jax.metrics import bootstrap
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
class Protocol:
  """Which examples are scored, and how.

  Attributes:
    count: of the images.
    bounds: whether rows have ceilings and floors.
    shuffle: whether the examples come from all over the split.
  """

  count: int
  bounds: bool = True
  shuffle: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
  """What an evaluation found.

  Attributes:
    rows: of the table of scores.
    images: (N, H, W, 3) uint8, what was made.
    real: (N, H, W, 3) uint8, the real images of the same examples.
  """

  rows: list[Row]
  images: np.ndarray
  real: np.ndarray


class Evaluation:
  """Scores on a split; its programs are compiled once."""

  def __init__(
    self,
    pipe: pipeline.Pipeline,
    config: ConfigDict,
    reader: reader_lib.Reader,
    protocol: Protocol,
  ):
    """Chooses the examples.

    Args:
      pipe: of the system; its weights do not matter.
      config: of the run.
      reader: of the split.
      protocol: which examples, and how they are scored.
    """
    self._config = config
    self._reader = reader
    self._protocol = protocol
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
    config, count = self._config, self._protocol.count
    image_sources.check_count(count, len(self._reader))
    images, real, rows = [], [], []
    uses = [np.zeros(size, np.int64) for size in self._codebooks]
    for numbers, host in self._batches():
      examples = self._finish(host)
      made, codes = make(examples.batch, numbers)
      for use, code in zip(uses, codes, strict=True):
        use += np.bincount(code.ravel(), minlength=len(use))
      project = config.sample.project
      images.append(examples_lib.composite(made, examples.rows, project))
      real.append(examples.real)
      rows.append(examples.rows)
    stacked = {n: np.concatenate([r[n] for r in rows])[:count] for n in rows[0]}
    all_images = np.concatenate(images)[:count]
    all_real = np.concatenate(real)[:count]
    return Scored(
      rows=self._rows(all_images, all_real, stacked, uses),
      images=all_images,
      real=all_real,
    )

  def _rows(
    self,
    images: np.ndarray,
    real: np.ndarray,
    examples: Mapping[str, np.ndarray],
    uses: list[np.ndarray],
  ) -> list[Row]:
    if self._outputs != system_lib.RECONSTRUCTIONS:
      bound = real if self._protocol.bounds else None
      names = self._reader.label_names
      return score_rows.of_task(self._config, names, images, bound, examples)
    rows = score_rows.of_reconstructions(images, real, examples)
    for scale, use in enumerate(uses):
      rows += score_rows.of_codebook(scale, use)
    return rows

  def _batches(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields numbers and host batches, enough for all images."""
    count = self._protocol.count
    size = min(self._config.evaluate.batch_size, count)
    source = batches_lib.Batches(
      self._reader, size, SEED, self._protocol.shuffle
    )
    bar = progress.Progress(0, -(-count // size), size, unit='batch')
    for step in range(-(-count // size)):
      yield step * size + np.arange(size), source.at(step)
      bar.update(step + 1)


def maker(pipe: pipeline.Pipeline, request: pipeline.Request) -> Maker:
  """Returns what makes the images that are scored.

  Args:
    pipe: a model.
    request: how it is sampled; a first stage reconstructs.
  """
  if pipe.system.outputs == system_lib.RECONSTRUCTIONS:
    return lambda batch, numbers: pipe.reconstruct(batch)
  return lambda batch, numbers: (
    pipe.sample(batch, request, numbers).images,
    [],
  )


def during_training(
  pipe: pipeline.Pipeline,
  request: pipeline.Request,
  config: ConfigDict,
  reader: reader_lib.Reader,
) -> Scores:
  """Returns a function from a model to scores by name, for a run's curves.

  Args:
    pipe: of the run; its weights do not matter.
    request: how it is sampled.
    config: of the run.
    reader: of the validation split.
  """
  count = min(QUICK, config.evaluate.count)
  if pipe.system.outputs == system_lib.PREDICTIONS:
    count = min(count, config.evaluate.batch_size)
    return predictions.scorer(pipe, reader, count)
  protocol = Protocol(count=count, bounds=False)
  evaluation = Evaluation(pipe, config, reader, protocol)

  def scores(pipe: pipeline.Pipeline) -> dict[str, float]:
    rows = evaluation(maker(pipe, request)).rows
    return {row.name: row.score.value for row in rows}

  return scores
