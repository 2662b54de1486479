"""What scores on features of one network keep of a set of images."""

import dataclasses

import numpy as np

from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import image_sets
from pyramid_jax.metrics import states


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSet:
  """Moments of all images, or the features of some, and what they were."""

  moments: frechet.Moments | None  # None where features are kept
  kept: states.Kept  # `features` (M, D) float32; none where moments are
  contents: image_sets.Contents
  count: int  # images

  @classmethod
  def of_images(
    cls,
    images: np.ndarray,
    features: np.ndarray,
    places: np.ndarray,
    keep: int,
  ) -> 'FeatureSet':
    """Returns that of (B, H, W, 3) uint8 with features (B, D), places (B,).

    Features of the first `keep` places are kept; 0 for moments instead.
    """
    few = places < keep
    return cls(
      moments=None if keep else frechet.moments(features),
      kept=states.Kept().add(places[few], {'features': features[few]}),
      contents=image_sets.Contents.of_images(images),
      count=len(images),
    )

  @property
  def features(self) -> np.ndarray:
    """(M, D) of the kept images, in the order of their places."""
    none = np.zeros((0, 0), np.float32)
    return self.kept.columns().get('features', none)

  def merge(self, other: 'FeatureSet') -> 'FeatureSet':
    """Returns the state of the images of both, which share none."""
    moments = self.moments
    if moments is not None and other.moments is not None:
      moments = moments.merge(other.moments)
    return FeatureSet(
      moments=moments,
      kept=self.kept.merge(other.kept),
      contents=self.contents.merge(other.contents),
      count=self.count + other.count,
    )

  @property
  def totals(self) -> dict[str, np.ndarray]:
    """All but the features, as arrays."""
    arrays = {'contents': self.contents.words, 'count': np.asarray(self.count)}
    if self.moments is None:
      return arrays
    return arrays | states.named('moments|', self.moments.arrays)

  @classmethod
  def of_totals(cls, totals: states.Columns, kept: states.Kept) -> 'FeatureSet':
    """Returns the state that has these `totals`."""
    arrays = states.part('moments|', totals)
    return cls(
      moments=frechet.Moments.of_arrays(arrays) if arrays else None,
      kept=kept,
      contents=image_sets.Contents.of_words(totals['contents']),
      count=int(totals['count']),
    )
