"""FID and related scores while images come, batch by batch."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math

import jax
import numpy as np

from pyramid_jax import errors
from pyramid_jax.evaluation import fidelity
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import inception
from pyramid_jax.metrics import inception_score
from pyramid_jax.metrics import named_sets
from pyramid_jax.metrics import score_directions
from pyramid_jax.metrics import states
from pyramid_jax.networks import inception as network_lib


# Samples whose features are kept for precision and recall: 400 MB.
KEPT = 50_000
# Up to so many images their covariance has no full rank.
FEW = network_lib.FEATURES
SELF = 'fid_self'  # the reference against itself: 0 but for rounding
_HALVES = ('even', 'odd')  # of the real images


@dataclasses.dataclass(frozen=True, kw_only=True)
class FidState:
  """What the scores of `fidelity` keep, as a `states.State`."""

  evaluator: fidelity.FidEvaluator
  # The name of the real images that batches bring as `reference`, and how many
  # they are; not used where the evaluator has a reference.
  real: str
  real_count: int
  run_size: int  # images of a run; places go from run to run
  samples: inception.Parts = (None,)  # of each run
  halves: inception.Parts = (None, None)  # of the real images

  def update(self, batch: states.Batch) -> 'FidState':
    extract, places = self.evaluator.extract, batch.places
    samples = self._with_samples(batch)
    halves, real = self.halves, batch.reference
    if self.evaluator.reference is None and real is not None and len(real):
      places = places[: len(real)]
      keep = fidelity.KEPT
      halves = inception.add(halves, real, extract(real), places, keep)
    return dataclasses.replace(self, samples=samples, halves=halves)

  def _with_samples(self, batch: states.Batch) -> inception.Parts:
    extract = self.evaluator.extract
    features = extract(batch.images)
    runs = batch.places // self.run_size
    shuffled = _shuffled(self.run_size)

    def of_run(run: int, state: inception.State | None) -> inception.Parts:
      rows = runs == run
      some = jax.tree.map(lambda x: np.asarray(x)[rows], features)
      places = batch.places[rows] - run * self.run_size
      images = batch.images[rows]
      return inception.add(
        (state,), images, some, places, KEPT, shuffled=shuffled
      )

    return sum((of_run(*x) for x in enumerate(self.samples)), ())

  def merge(self, other: 'FidState') -> 'FidState':
    both = lambda a, b: tuple(map(inception.merged, a, b))
    return dataclasses.replace(
      self,
      samples=both(self.samples, other.samples),
      halves=both(self.halves, other.halves),
    )

  def finish(self) -> list[bootstrap.Row]:
    """Returns the scores of the samples; too few are a UserError."""
    with errors.user_errors(value=errors.DATA):
      samples = inception.whole(self.samples)
      reference = self.evaluator.reference
      if reference is None:
        even, odd = inception.whole(self.halves)
        resize = self.evaluator.resize
        reference = fidelity.reference_of(even, odd, self._real, resize)
      runs = [inception.scores(x, reference.statistics) for x in samples]
    bound = lambda name: reference.ceiling.get(fidelity.plain(name))
    fit = reference.statistics.pool
    zero = frechet.distance(fit, fit)
    itself = bootstrap.without_interval(zero, reference.statistics.count or 0)
    rows = [bootstrap.Row(SELF, itself, reference=reference.label)]
    for name, score in of_runs(runs).items():
      against = '' if inception.is_alone(name) else reference.label
      rows.append(bootstrap.Row(name, score, bound(name), reference=against))
    return rows

  @property
  def _real(self) -> str:
    return f'{self.real} ({self.real_count} images)'

  def notes(self, count: int) -> str:
    """Returns one line with the source and the limits of `count` samples."""
    reference = self.evaluator.reference
    name = self._real if reference is None else reference.name
    known = None if reference is None else reference.statistics
    notes = [
      f'FID and related scores by {self.evaluator.weights} against {name}'
    ]
    least = self.real_count if known is None else known.count or count
    if min(count, least) <= FEW:
      notes.append(
        f'FID of as few as {min(count, least)} images is biased upwards'
      )
    if known is None or (known.spatial is not None and known.own):
      notes.append(f'sFID is {inception.SFID_NOTE}')
    return '; '.join(notes)

  @property
  def _parts(self) -> named_sets.Sets[inception.State]:
    both = (*self.samples, *self.halves)
    named = dict(zip(self._names, both, strict=True))
    return inception.sets(named)

  @property
  def _names(self) -> list[str]:
    return [*(f'run{n}' for n in range(len(self.samples))), *_HALVES]

  @property
  def kept(self) -> dict[str, states.Kept]:
    return self._parts.kept

  @property
  def totals(self) -> dict[str, states.Array]:
    return self._parts.totals

  def restored(
    self, kept: Mapping[str, states.Kept], totals: states.Columns
  ) -> 'FidState':
    found = self._parts.restored(kept, totals).parts
    parts = tuple(found[name] for name in self._names)
    runs = len(self.samples)
    return dataclasses.replace(self, samples=parts[:runs], halves=parts[runs:])


@functools.lru_cache(maxsize=4)
def _shuffled(count: int) -> np.ndarray:
  return inception_score.shuffled_splits(count)


def of_runs(
  runs: Sequence[Mapping[str, bootstrap.Score]],
) -> dict[str, bootstrap.Score]:
  """Returns the scores of the run whose first score is the best, such as FID.

  The distances of several runs are there as NAME_run1 and so on, and as
  NAME_mean with their standard error as interval.
  """
  first = next(iter(runs[0]))
  choose = min if score_directions.lower_is_better(first) else max
  best = dict(choose(runs, key=lambda scores: scores[first].value))
  if len(runs) < 2:
    return best
  for name in list(best):
    if not score_directions.lower_is_better(name):
      continue
    each = [scores[name] for scores in runs]
    best |= {f'{name}_run{i}': score for i, score in enumerate(each, 1)}
    values = np.array([score.value for score in each])
    mean = float(values.mean())
    error = float(values.std(ddof=1) / math.sqrt(len(values)))
    interval = (mean - error, mean + error)
    best[f'{name}_mean'] = bootstrap.Score(mean, *interval, best[name].n)
  return best


def start(
  evaluator: fidelity.FidEvaluator,
  count: int,
  real: str,
  real_count: int,
  runs: int = 1,
) -> FidState:
  """Returns the state of no images; see `FidState`.

  `count` are the samples of each of the `runs`. Fewer than two samples or real
  images are a UserError.
  """
  counts = {'the samples': count}
  if evaluator.reference is None:
    counts[real] = real_count
  for name, number in counts.items():
    if number < 2:
      raise errors.UserError(
        f'FID needs at least 2 images, {name} are {number}.', errors.DATA
      )
  return FidState(
    evaluator=evaluator,
    real=real,
    real_count=real_count,
    run_size=count,
    samples=(None,) * runs,
  )
