"""Accuracies of a classifier of noised images, at several noise levels."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
from typing import Any
from typing import cast

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax import pipeline
from pyramid_jax import placement
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.distributed import processes
from pyramid_jax.evaluation import split_examples
from pyramid_jax.evaluation import unfinished
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import states
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.classifier import classifier as classifier_lib


PARTS = (0.0, 0.25, 0.5, 0.75)  # of the noise's time, 1 is noise
_TOPIC = 'accuracies'  # of what processes tell each other

# (weights, finished batch, number of the batch) -> (B,) by name
Program = Callable[[Any, Any, Any], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Accuracy(states.Means):
  """The means of what is known of single images, as a `states.Measure`."""

  def of_images(self, batch: states.Batch) -> states.Columns:
    return {n: bootstrap.mean_pairs(x) for n, x in batch.examples.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Classified:
  """The examples with what was found of them, as an `unfinished.Source`."""

  examples: split_examples.SplitExamples
  weights: system_lib.Weights
  program: Program

  @property
  def size(self) -> int:
    return self.examples.size

  @property
  def steps(self) -> int:
    return self.examples.steps

  def batches(self, first: int) -> Iterator[states.Batch]:
    for step in range(first, self.steps):
      own = self.examples.own(step)
      found = self.examples.at(step)
      values = processes.to_host(self.program(self.weights, found.batch, step))
      yield states.Batch(
        places=self.examples.places(step)[own],
        images=found.real[: len(own)],
        examples={name: x[own] for name, x in values.items()},
      )


class Evaluation:
  """Scores on a split; its program is compiled once."""

  def __init__(
    self,
    pipe: pipeline.Pipeline,
    config: ConfigDict,
    reader: reader_lib.Reader,
    count: int,
  ):
    """Prepares the scores of at most `count` images, each once."""
    count = min(count, len(reader))
    self.examples = split_examples.SplitExamples(
      config, reader, pipe.mesh, count
    )
    self._program = _program(pipe)

  @property
  def about(self) -> str:
    """How many images are scored."""
    return f'{self.examples.count} images'

  def __call__(
    self, weights: system_lib.Weights, store: unfinished.Store | None = None
  ) -> list[states.Row]:
    """Returns cross-entropy (nats) and accuracies at `PARTS` of the time.

    With a store it goes on from what lies there. All processes call it; the
    rows are in process 0.
    """
    source = _Classified(
      examples=self.examples, weights=weights, program=self._program
    )
    start = {'images': states.PerImage(measure=Accuracy())}
    return unfinished.rows_of(unfinished.accumulate(start, source, store))


def _program(pipe: pipeline.Pipeline) -> Program:
  system = cast(system_lib.Classifying, pipe.system)

  @jax.jit
  @functools.partial(placement.within, pipe.mesh)
  def classify(weights, batch, number):
    labels, key = batch['class'], jax.random.fold_in(jax.random.key(0), number)
    found = {}
    for part in PARTS:
      times = jnp.full(labels.shape, part)
      logits = system.logits(weights, key, batch, times)
      errors = classifier_lib.cross_entropy(logits, labels)
      found[f'cross_entropy_at_{part}'] = errors
      for most in (1, classifier_lib.TOP):
        right = classifier_lib.is_among(logits, labels, most)
        found[f'acc_{most}_at_{part}'] = right
    return found

  return classify


def scorer(
  pipe: pipeline.Pipeline,
  config: ConfigDict,
  reader: reader_lib.Reader,
  count: int,
) -> Callable[[pipeline.Pipeline], dict[str, float]]:
  """Returns a function from a classifier to its scores on `count` images.

  The weights of `pipe` do not matter.
  """
  evaluation = Evaluation(pipe, config, reader, count)

  def scores(pipe: pipeline.Pipeline) -> dict[str, float]:
    rows = evaluation(pipe.weights)
    values = {row.name: row.score.value for row in rows}
    return processes.decided(lambda: values, _TOPIC)

  return scores
