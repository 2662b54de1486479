"""FID and related scores while images come, batch by batch."""

from collections.abc import Mapping
import dataclasses

from pyramid_jax import errors
from pyramid_jax.evaluation import fidelity
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import inception
from pyramid_jax.metrics import states
from pyramid_jax.networks import inception as network_lib


# Samples whose features are kept for precision and recall: 400 MB.
KEPT = 50_000
# Up to so many images their covariance has no full rank.
FEW = network_lib.FEATURES
_NAMES = ('samples', 'even', 'odd')  # of the parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class FidState:
  """What the scores of `fidelity` keep, as a `states.State`."""

  evaluator: fidelity.FidEvaluator
  # The name of the real images that batches bring as `reference`, and how many
  # they are; not used where the evaluator has a reference.
  real: str
  real_count: int
  samples: inception.Parts = (None,)
  halves: inception.Parts = (None, None)  # of the real images

  def update(self, batch: states.Batch) -> 'FidState':
    extract, places = self.evaluator.extract, batch.places
    features = extract(batch.images)
    samples = inception.add(self.samples, features, places, KEPT)
    halves, real = self.halves, batch.reference
    if self.evaluator.reference is None and real is not None and len(real):
      places, features = places[: len(real)], extract(real)
      halves = inception.add(halves, features, places, fidelity.KEPT)
    return dataclasses.replace(self, samples=samples, halves=halves)

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
      (samples,) = inception.whole(self.samples)
      reference = self.evaluator.reference
      if reference is None:
        even, odd = inception.whole(self.halves)
        reference = fidelity.reference_of(even, odd, self._real)
      scores = inception.scores(samples, reference.statistics)
    bounds = {n: reference.ceiling.get(fidelity.plain(n)) for n in scores}
    return [bootstrap.Row(n, s, bounds[n]) for n, s in scores.items()]

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
  def _parts(self) -> inception.PartsState:
    both = (*self.samples, *self.halves)
    named = dict(zip(_NAMES, both, strict=True))
    return inception.PartsState(parts=named)

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
    samples, *halves = (found[name] for name in _NAMES)
    return dataclasses.replace(self, samples=(samples,), halves=tuple(halves))


def start(
  evaluator: fidelity.FidEvaluator, count: int, real: str, real_count: int
) -> FidState:
  """Returns the state of no images; see `FidState`.

  Fewer than two samples or real images are a UserError.
  """
  counts = {'the samples': count}
  if evaluator.reference is None:
    counts[real] = real_count
  for name, number in counts.items():
    if number < 2:
      raise errors.UserError(
        f'FID needs at least 2 images, {name} are {number}.', errors.DATA
      )
  return FidState(evaluator=evaluator, real=real, real_count=real_count)
