"""Scores of what a model makes of the examples of a split."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import cast

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.distributed import processes
from pyramid_jax.evaluation import classification
from pyramid_jax.evaluation import clip_score
from pyramid_jax.evaluation import diversity
from pyramid_jax.evaluation import edge_prediction
from pyramid_jax.evaluation import feature_networks
from pyramid_jax.evaluation import feature_state
from pyramid_jax.evaluation import fid_state
from pyramid_jax.evaluation import fidelity
from pyramid_jax.evaluation import measures
from pyramid_jax.evaluation import perceptual
from pyramid_jax.evaluation import protocols
from pyramid_jax.evaluation import scales as scales_lib
from pyramid_jax.evaluation import scene_fid
from pyramid_jax.evaluation import split_examples
from pyramid_jax.evaluation import unfinished
from pyramid_jax.metrics import code_uses
from pyramid_jax.metrics import object_crops
from pyramid_jax.metrics import restoration
from pyramid_jax.metrics import states
from pyramid_jax.pipeline import rows as rows_lib
from pyramid_jax.systems import system as system_lib


# (finished batch on the mesh, (B,) numbers of the images) -> (B, H, W, 3)
# uint8, and the codes of each codebook of a first stage.
Maker = Callable[
  [Mapping[str, Any], np.ndarray], tuple[np.ndarray, list[np.ndarray]]
]
Scores = Callable[[pipeline.Pipeline], dict[str, float]]
_TOPIC = 'scores'  # of what processes tell each other
QUICK = 200  # images of an evaluation during training


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
    protocol: protocols.Protocol | None = None,
  ):
    """Prepares the scores of `count` images; the weights do not matter.

    By a protocol they are those of each of its runs.

    With `bounds` rows have ceilings and floors, with `shuffle` the examples
    come from all over the split. Each example is reconstructed once.
    """
    self._wanted = count
    first_stage = None
    if pipe.system.outputs == system_lib.RECONSTRUCTIONS:
      first_stage = cast(system_lib.Reconstructing, pipe.system)
      count = min(count, len(reader))
    self.examples = split_examples.SplitExamples(
      config, reader, pipe.mesh, count, shuffle, protocol
    )
    bounds = bounds and self.examples.has_own_conditions
    # Whether images are to equal given ones.
    self.has_targets = (
      first_stage is not None or config.condition.task in restoration.TASKS
    )
    level = measures.level_of(config)
    self._states: dict[str, states.State] = {}
    self._project = False
    self._coarse: scales_lib.Coarse | None = None
    measure: states.Measure | None
    if first_stage is None:
      measure = measures.of_samples(config, level, bounds)
      plain = measures.of_samples(config, level, False)
      self._project = config.sample.project
    else:
      measure = plain = measures.Reconstruction(level=level)
    self._plain = plain  # without ceilings and floors
    if measure is not None:
      self._states['images'] = states.PerImage(measure=measure)
    if first_stage is not None:
      codes = code_uses.CodeUses.of_sizes(first_stage.codebooks)
      self._states['codes'] = codes

  def add_perceptual(self, measure: perceptual.Perceptual) -> str:
    """Adds LPIPS; returns a line about it."""
    self._states['perceptual'] = states.PerImage(measure=measure)
    return f'LPIPS by {measure.weights}'

  def add_diversity(self, measure: perceptual.Perceptual) -> str:
    """Adds LPIPS of images of one condition; returns a line about it."""
    found = diversity.Diversity(distance=measure.distance)
    self._states['diversity'] = states.PerImage(measure=found)
    return f'diversity by {measure.weights}'

  def add_measure(self, name: str, measure: states.Measure) -> None:
    """Adds scores of single images that need no conditions of others."""
    self._states[name] = states.PerImage(measure=measure)

  def add_scene_fid(self, evaluator: fidelity.FidEvaluator, split: str) -> str:
    """Adds the FID of the objects of layouts; returns a line about it."""
    extract = evaluator.extract
    self._states['scene_fid'] = scene_fid.SceneFid(
      extractor=lambda crops: np.asarray(extract(crops).pool),
      variant=evaluator.resize,
      real=f'the real images of {split}',
    )
    return f'SceneFID of crops of {object_crops.SIDE} px'

  def add_scales(self, coarse: scales_lib.Coarse, scales: int) -> str:
    """Adds the scores of all scales but the finest; returns a line about them.

    They are the scores of images, and FID where it was added before.
    """
    self._coarse = coarse
    own: dict[str, states.State] = {}
    if self._plain is not None:
      own['images'] = states.PerImage(measure=self._plain)
    if 'fid' in self._states:
      own['fid'] = self._states['fid']
    for scale in range(scales - 1):
      for name, state in own.items():
        found = scales_lib.OfScale(state=state, scale=scale)
        self._states[f'{name}_scale_{scale}'] = found
    return f'the coarser of {scales} scales alone'

  def add_clip_score(self, measure: clip_score.ClipScore) -> str:
    """Adds how well images fit their captions; returns a line about it."""
    self._states['clip_score'] = states.PerImage(measure=measure)
    return f'CLIP score by {measure.weights}'

  def add_features(
    self, network: feature_networks.FeatureNetwork, split: str
  ) -> str:
    """Adds scores on features of a network; returns a line about them.

    Without real images of the network, those of the examples are compared with.
    """
    count, examples = self.examples.run_size, self.examples
    real = f'the real images of {split} ({examples.distinct} images)'
    self._states[network.kind.field] = feature_state.start(
      network, count, real, examples.count // count
    )
    return feature_state.notes(network, real)

  def add_fid(self, evaluator: fidelity.FidEvaluator, split: str) -> str:
    """Adds FID and related scores; returns a line about them.

    Without a reference of the evaluator, the real images of the examples are
    compared with. Fewer than two images are a UserError.
    """
    examples = self.examples
    real = f'the real images of {split}'
    count, distinct = examples.run_size, examples.distinct
    runs = examples.count // count
    start = fid_state.start(evaluator, count, real, distinct, runs)
    self._states['fid'] = start
    return start.notes(count)

  @property
  def about(self) -> str:
    """How many images are scored, and what was done where examples are few."""
    count, distinct = self.examples.run_size, self.examples.distinct
    runs = self.examples.count // count
    if runs > 1:
      return f'{runs} runs of {count} images'
    if self._wanted > count:
      return f'all {count} images (of {self._wanted} wanted)'
    if distinct == count:
      return f'{count} images'
    return (
      f'{count} images (whose {distinct} conditions repeat in turn, with other'
      ' noise)'
    )

  def __call__(
    self, make: Maker, store: unfinished.Store | None = None
  ) -> list[states.Row]:
    """Makes images of the examples and scores them.

    With a store it goes on from what lies there. All processes call it; the
    rows are in process 0.
    """
    source = _Made(
      make=make,
      examples=self.examples,
      measures=[
        state.measure
        for state in self._states.values()
        if isinstance(state, states.PerImage)
      ],
      project=self._project,
      coarse=self._coarse,
    )
    found = unfinished.accumulate(self._states, source, store)
    return unfinished.rows_of(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Made:
  """The images of a model, as an `unfinished.Source`."""

  make: Maker
  examples: split_examples.SplitExamples
  measures: Sequence[states.Measure]
  project: bool  # See `rows.composite`.
  coarse: scales_lib.Coarse | None

  @property
  def size(self) -> int:
    return self.examples.size

  @property
  def steps(self) -> int:
    return self.examples.steps

  def batches(self, first: int) -> Iterator[states.Batch]:
    """Makes the images of all batches but for the `first` ones.

    All processes make all images; each yields those that it counts.
    """
    for step in range(first, self.steps):
      all_places, own = self.examples.places(step), self.examples.own(step)
      found = self.examples.at(step)
      numbers = self.examples.filled(step)
      made, codes = self.make(found.batch, numbers)
      coarse = self.coarse(found.batch, numbers) if self.coarse else []
      others = None
      if any(measure.needs_others(found.rows) for measure in self.measures):
        others = self.examples.others(step)
      places, count = all_places[own], len(own)
      rows = {name: x[:count] for name, x in found.rows.items()}
      real = found.real[: self.examples.fresh(places)]
      yield states.Batch(
        places=places,
        images=rows_lib.composite(made[own], rows, self.project),
        examples=rows,
        real=real if self.examples.has_own_conditions else None,
        others=others,
        reference=real,
        codes=[x[own] for x in codes],
        coarse=[rows_lib.composite(x[own], rows, self.project) for x in coarse],
        alike=self._alike(step, made),
      )

  def _alike(self, step: int, made: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Returns what this process counts of `Batch.alike`."""
    own = self.examples.own(step)
    found = []
    for number, rows in enumerate(self.examples.alike(step)):
      # Of different turns, so that all processes have as many.
      row = rows[number % len(rows)]
      if row in own:
        found.append((int(np.searchsorted(own, row)), made[rows]))
    return found


def maker(pipe: pipeline.Pipeline, settings: pipeline.Settings) -> Maker:
  """Returns the function that makes the images to score.

  It samples by the settings; a first stage reconstructs. Samples that are not
  finite are a `pipeline.NotFinite`.
  """
  if pipe.system.outputs == system_lib.RECONSTRUCTIONS:
    return lambda batch, numbers: pipe.reconstruct(batch, len(numbers))

  def make(
    batch: Mapping[str, Any], numbers: np.ndarray
  ) -> tuple[np.ndarray, list[np.ndarray]]:
    made = pipe.sample(batch, settings, numbers)
    pipe.check_finite(made.finite, settings, numbers)
    return made.images, []

  return make


def validation_count(config: ConfigDict, outputs: str, there: int) -> int:
  """Returns how many images an evaluation during training scores.

  It takes as many as `there` are in the validation split where that is fewer
  than are wanted of a system with these outputs; no images are a UserError.
  """
  if there < 1:
    raise errors.UserError('the validation split has no images.', errors.DATA)
  return min(_wanted(config, outputs), there)


def few_images(config: ConfigDict, outputs: str, there: int) -> str:
  """Returns a line about a validation split of few images, '' for enough."""
  wanted = _wanted(config, outputs)
  if there >= wanted:
    return ''
  return (
    f'the validation split has {there} images: scores during training are of'
    f' these, not of {wanted}'
  )


def _wanted(config: ConfigDict, outputs: str) -> int:
  count = min(QUICK, config.evaluate.count)
  if outputs == system_lib.PREDICTIONS:  # of one batch
    count = min(count, config.evaluate.batch_size)
  return count


def during_training(
  pipe: pipeline.Pipeline,
  settings: pipeline.Settings,
  config: ConfigDict,
  reader: reader_lib.Reader,
) -> Scores:
  """Returns a function from a model to scores by name, for a run's curves.

  The reader is that of the validation split; the weights of `pipe` do not
  matter. All processes call it and have the scores.
  """
  outputs = pipe.system.outputs
  count = validation_count(config, outputs, len(reader))
  if outputs == system_lib.PREDICTIONS:
    return edge_prediction.scorer(pipe, reader, count)
  if outputs == system_lib.CLASSES:
    return classification.scorer(pipe, config, reader, count)
  evaluation = Evaluation(pipe, config, reader, count=count, bounds=False)

  def scores(pipe: pipeline.Pipeline) -> dict[str, float]:
    rows = evaluation(maker(pipe, settings))
    values = {row.name: row.score.value for row in rows}
    return processes.decided(lambda: values, _TOPIC)

  return scores
