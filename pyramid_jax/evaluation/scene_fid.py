"""SceneFID: the FID of the objects of layouts."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools

from absl import logging
import numpy as np

from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import image_sets
from pyramid_jax.metrics import object_crops
from pyramid_jax.metrics import states


SCORE = 'scene_fid'

Moments = frechet.Moments
# (M, H, W, 3) uint8 -> (M, D)
Extract = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneFid:
  """The moments of objects of samples and real images, as a `states.State`.

  Objects are those of the layouts, cut out of both (`object_crops`). Source:
  arXiv:2003.07449, which defines the score; the crops are those of LAMA, to
  which later tables compare. Real objects count once, however many images their
  layout has.
  """

  extractor: Extract
  variant: str  # how crops become the network's input
  real: str  # the name of the real images
  # 'samples', and 'even' and 'odd', those of real images at such places; a set
  # without objects is not there.
  sets: Mapping[str, Moments] = dataclasses.field(default_factory=dict)
  contents: image_sets.Contents = image_sets.Contents()  # of real objects

  def update(self, batch: states.Batch) -> 'SceneFid':
    new, _ = self._cut(batch.images, batch.examples)
    sets = {'samples': new}
    contents = self.contents
    if batch.real is not None and len(batch.real):
      new, rows = self._cut(batch.real, batch.conditions)
      is_odd = batch.places[rows] % 2 == 1
      sets |= {'even': new[~is_odd], 'odd': new[is_odd]}
      contents = contents.merge(image_sets.Contents.of_images(new))
    moments = {
      name: frechet.moments(self.extractor(crops))
      for name, crops in sets.items()
      if len(crops)
    }
    sets_ = _merged(self.sets, moments)
    return dataclasses.replace(self, sets=sets_, contents=contents)

  def _cut(
    self, images: np.ndarray, examples: states.Columns
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the objects, and the numbers of their images."""
    crops, boxes = object_crops.of_images(images, examples)
    return crops, boxes // examples['boxes'].shape[1]

  def merge(self, other: 'SceneFid') -> 'SceneFid':
    sets = _merged(self.sets, other.sets)
    contents = self.contents.merge(other.contents)
    return dataclasses.replace(self, sets=sets, contents=contents)

  def finish(self) -> list[bootstrap.Row]:
    """Returns the score; its name has the number of the samples' objects.

    Its ceiling is that of one half of the real images and the other.
    """
    halves = [self.sets[x] for x in ('even', 'odd') if x in self.sets]
    real = functools.reduce(Moments.merge, halves) if halves else None
    samples = self.sets.get('samples')
    if samples is None or real is None or min(samples.count, real.count) < 2:
      logging.warning('SceneFID needs at least 2 objects, there are fewer.')
      return []
    ceiling = None
    if len(halves) == 2 and min(half.count for half in halves) > 1:
      ceiling = _distance(*halves)
    number = states.number(round(samples.count))
    row = bootstrap.Row(
      f'{SCORE}_{self.variant}_{number}',
      _distance(samples, real),
      ceiling,
      reference=f'objects of {self.real} ({real.count:.0f}), contents'
      f' {self.contents.digest}',
    )
    return [row]

  @property
  def kept(self) -> dict[str, states.Kept]:
    return {}

  @property
  def totals(self) -> dict[str, np.ndarray]:
    arrays = {'contents': self.contents.words}
    for name, moments in self.sets.items():
      arrays |= states.named(f'{name}|', moments.arrays)
    return arrays

  def restored(
    self, kept: Mapping[str, states.Kept], totals: states.Columns
  ) -> 'SceneFid':
    del kept
    names = {path.partition('|')[0] for path in totals if '|' in path}
    return dataclasses.replace(
      self,
      contents=image_sets.Contents.of_words(totals['contents']),
      sets={
        name: Moments.of_arrays(states.part(f'{name}|', totals))
        for name in names
      },
    )


def _merged(
  a: Mapping[str, Moments], b: Mapping[str, Moments]
) -> dict[str, Moments]:
  both = {name: a[name].merge(b[name]) for name in a.keys() & b.keys()}
  return {**a, **b, **both}


def _distance(a: Moments, b: Moments) -> bootstrap.Score:
  """Returns the distance of two sets; its number is that of the first."""
  value = frechet.distance(frechet.fit_moments(a), frechet.fit_moments(b))
  return bootstrap.without_interval(value, round(a.count))
