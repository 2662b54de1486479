"""Scores of images by Inception-v3: FID, sFID, inception score, precision.

Features are computed in batches on the devices and folded on the host, in
float64, into states that can be merged: of batches, devices or processes.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
import numpy as np

from pyramid_jax import files
from pyramid_jax.data.pixels import images as images_lib
from pyramid_jax.metrics import batched
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import image_sets
from pyramid_jax.metrics import inception_input
from pyramid_jax.metrics import inception_reference
from pyramid_jax.metrics import inception_score
from pyramid_jax.metrics import kid
from pyramid_jax.metrics import named_sets
from pyramid_jax.metrics import nearest
from pyramid_jax.metrics import precision_recall
from pyramid_jax.metrics import states
from pyramid_jax.networks import inception


FILE = 'pt_inception-2015-12-05-6726825d.pth'
# The graph's tensor was identified by its size alone: numbers of sFID are not
# compared with others' before a reference of theirs has been reproduced.
SFID_NOTE = 'unverified against ADM'
_FEWEST = max(precision_recall.NEIGHBOURS)  # images, and one more

Features = inception.Outputs
Extract = Callable[[np.ndarray], Features]
Batches = Iterable[tuple[np.ndarray, np.ndarray]]  # places and images


def unavailable(path: str, field: str) -> str:
  """Returns one line that says what to put where, see `require_weights`."""
  found = f'{path} is no file' if path else 'it is not set'
  return (
    f'FID and related scores are unavailable: put {FILE} (or what '
    f'pyramid_jax.commands.convert made of it) at {field}; {found}.'
  )


def require_weights(path: str, field: str) -> pathlib.Path:
  """Returns the path of the weights that a field of a config names.

  Raises:
    FileNotFoundError: one line that says what to put where.
  """
  found = files.local(path, field) if path else None
  if found is None or not found.is_file():
    raise FileNotFoundError(unavailable(path, field))
  return found


def extractor(
  variables: Any,
  batch_size: int,
  mesh: Mesh,
  network: inception.InceptionV3 | None = None,
  resize: str = inception_input.TF1,
) -> Extract:
  """Returns a function from images to their features on the host.

  Of `batch_size` images at a time, missing ones are filled up with blank ones,
  so that one program serves all; the devices of the mesh, which have the
  variables, divide them. The network is the published one if None; `resize` is
  one of `inception_input.RESIZES`.
  """
  model = network or inception.InceptionV3()

  def program(variables, images):
    return model.apply(variables, inception.preprocess(images))

  run = batched.on_host(program, variables, batch_size, mesh)

  def extract(images: np.ndarray) -> Features:
    images_lib.check_batch(images)
    parts = []
    for start in range(0, len(images), batch_size):
      part = images[start : start + batch_size]
      parts.append(run(inception_input.resized(part, resize)))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

  return extract


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
  """What the scores need of a set of images, or of a part of it."""

  pool: frechet.Moments  # The moments of the 2048 averages.
  spatial: frechet.Moments  # The moments of the 2023 spatial features.
  splits: inception_score.Splits  # sums of the inception score
  # Those of torch-fidelity's splits; none where the count was not known.
  shuffled: inception_score.Splits
  kept: states.Kept  # `features` (M, 2048) float32, averages of some images
  contents: image_sets.Contents = image_sets.Contents()

  @property
  def places(self) -> np.ndarray:
    """(M,) of the images whose features are kept."""
    return self.kept.places

  @property
  def features(self) -> np.ndarray:
    """(M, 2048), the averages of those images."""
    none = np.zeros((0, len(self.pool.mean)), np.float32)
    return self.kept.columns().get('features', none)

  def merge(self, other: 'State') -> 'State':
    """Returns the state of the images of both, which share none."""
    return State(
      pool=self.pool.merge(other.pool),
      spatial=self.spatial.merge(other.spatial),
      splits=inception_score.merge_splits(self.splits, other.splits),
      shuffled=inception_score.merge_splits(self.shuffled, other.shuffled),
      kept=self.kept.merge(other.kept),
      contents=self.contents.merge(other.contents),
    )

  @property
  def totals(self) -> dict[str, np.ndarray]:
    """All but what is kept of single images, as arrays."""
    arrays = {f'split|{n}': sums for n, sums in self.splits.items()}
    arrays |= {f'shuffled|{n}': sums for n, sums in self.shuffled.items()}
    for name, moments in (('pool', self.pool), ('spatial', self.spatial)):
      arrays |= states.named(f'{name}|', moments.arrays)
    return arrays | {'contents': self.contents.words}

  @classmethod
  def of_totals(cls, totals: states.Columns, kept: states.Kept) -> 'State':
    """Returns the state that has these `totals`."""

    def splits(name: str) -> inception_score.Splits:
      found = states.part(f'{name}|', totals)
      return {int(number): sums for number, sums in found.items()}

    return cls(
      pool=frechet.Moments.of_arrays(states.part('pool|', totals)),
      spatial=frechet.Moments.of_arrays(states.part('spatial|', totals)),
      splits=splits('split'),
      shuffled=splits('shuffled'),
      kept=kept,
      contents=image_sets.Contents.of_words(totals['contents']),
    )


# The states of the images whose place is 0, 1 ... modulo their number, None for
# no images. Merged they are that of all images; the distance of two is that of
# two sets of real images, though of half as many.
Parts = tuple[State | None, ...]


def add(
  parts: Parts,
  images: np.ndarray,
  features: Features,
  places: np.ndarray,
  keep: int,
  split_size: int = inception_score.SPLIT_SIZE,
  shuffled: np.ndarray | None = None,
) -> Parts:
  """Returns the states with (B, H, W, 3) uint8 images and their features.

  Their places are (B,). Of the first `keep` places the averages are kept, 8 KB
  an image. `shuffled` are the `inception_score.shuffled_splits` of all places.
  """

  def with_part(part: int, state: State | None) -> State | None:
    rows = places % len(parts) == part
    if not rows.any():
      return state
    some = jax.tree.map(lambda x: np.asarray(x)[rows], features)
    new = _state(some, places[rows], keep, split_size)
    new = dataclasses.replace(
      new, contents=image_sets.Contents.of_images(images[rows])
    )
    if shuffled is not None:
      logits = np.asarray(some.logits_unbiased)
      sums = inception_score.sums_of(logits, shuffled[places[rows]])
      new = dataclasses.replace(new, shuffled=sums)
    return merged(state, new)

  return tuple(with_part(part, state) for part, state in enumerate(parts))


merged = named_sets.merged


def sets(parts: Mapping[str, State | None]) -> named_sets.Sets[State]:
  """Returns the states of some sets by name."""
  return named_sets.Sets(kind=State, parts=parts)


def collect(
  extract: Extract,
  batches: Batches,
  keep: int,
  parts: int = 1,
  split_size: int = inception_score.SPLIT_SIZE,
) -> Parts:
  """Returns the states of `Parts` of all images.

  `batches` are places (B,) in the whole set and images (B, H, W, 3) uint8; the
  features of its first `keep` images are kept.
  """
  found: Parts = (None,) * parts
  for places, images in batches:
    if len(images):
      features = extract(images)
      found = add(found, images, features, places, keep, split_size)
  return found


def whole(parts: Parts) -> list[State]:
  """Returns the states; a part without images is a ValueError."""
  states_ = [state for state in parts if state is not None]
  if len(states_) < len(parts):
    raise ValueError('there are too few images to score.')
  return states_


def _state(
  features: Features, places: np.ndarray, keep: int, split_size: int
) -> State:
  pool, kept = np.asarray(features.pool), places < keep
  logits = np.asarray(features.logits_unbiased)
  return State(
    pool=frechet.moments(pool),
    spatial=frechet.moments(np.asarray(features.spatial)),
    splits=inception_score.split_sums(logits, places, split_size),
    shuffled={},
    kept=states.Kept().add(places[kept], {'features': pool[kept]}),
  )


def scores(
  samples: State, reference: inception_reference.Reference
) -> dict[str, bootstrap.Score]:
  """Returns the scores by name; names say how many images were scored.

  Precision, recall and the share of copies have intervals over images, the
  inception score one over its splits, the distances none. Scores whose part the
  reference lacks are left out, and so are those of kept averages where these
  are too few.

  Raises:
    ValueError: fewer than two images.
  """
  count = round(samples.pool.count)
  number = states.number(count)
  variant = f'{reference.resize}_{number}'

  def distance(moments: frechet.Moments, fit: frechet.Fit) -> bootstrap.Score:
    value = frechet.distance(frechet.fit_moments(moments), fit)
    return bootstrap.without_interval(value, count)

  out = {f'fid_{variant}': distance(samples.pool, reference.pool)}
  if reference.spatial is not None:
    out[f'sfid_{variant}'] = distance(samples.spatial, reference.spatial)
  out[f'inception_score_{number}'] = inception_score.over_splits(samples.splits)
  if len(samples.shuffled) == inception_score.FIDELITY_SPLITS:
    shuffled = inception_score.over_splits(samples.shuffled)
    out[f'inception_score_fidelity_{number}'] = shuffled
  if reference.features is not None:
    out |= _of_features(reference, samples.features, number)
  return out


def _of_features(
  reference: inception_reference.Reference, ours: np.ndarray, number: str
) -> dict[str, bootstrap.Score]:
  """Returns the scores of kept averages, those for which there are enough."""
  real = reference.features
  assert real is not None
  out, fewest = {}, min(len(real), len(ours))
  if fewest > _FEWEST:
    logging.info('precision and recall of %s features', number)
    # Balls for precision and for copies, in one pass over all pairs.
    radii = precision_recall.radii(real, (*precision_recall.NEIGHBOURS, 1))
    radii[:, -1] = nearest.limits(radii[:, -1])
    covered = precision_recall.covered(ours, real, radii)
    reach = precision_recall.radii(ours)
    recall = precision_recall.covered(real, ours, reach)
    out[f'precision_{number}'] = bootstrap.proportion(covered[0], len(ours))
    out[f'recall_{number}'] = bootstrap.proportion(recall[0], len(real))
  if fewest >= kid.SUBSET_SIZE:
    logging.info('kernel distance of %s features', number)
    values = kid.of_subsets(ours, real)
    variant = f'{reference.resize}_{number}'
    names = {'kid': values.mean(), 'kid_std': values.std()}
    for name, value in names.items():
      out[f'{name}_{variant}'] = bootstrap.without_interval(value, len(ours))
  if len(real) >= nearest.FEWEST:
    share = (
      covered[-1] if fewest > _FEWEST else nearest.copied_share(real, ours)
    )
    out[f'copied_{number}'] = bootstrap.proportion(share, len(ours))
  return out


def is_alone(name: str) -> bool:
  """Whether a score compares with no other images."""
  return name.startswith('inception_score')


def reference_of(
  state: State, resize: str = inception_input.TF1
) -> inception_reference.Reference:
  """Returns a state as a reference for other images, resized in this way."""
  return inception_reference.Reference(
    pool=frechet.fit_moments(state.pool),
    spatial=frechet.fit_moments(state.spatial),
    features=state.features,
    count=round(state.pool.count),
    digest=state.contents.digest,
    resize=resize,
  )


def with_features(
  reference: inception_reference.Reference, extract: Extract
) -> inception_reference.Reference:
  """Returns a reference whose images have become features."""
  if reference.images is None:
    return reference
  features = np.asarray(extract(reference.images).pool)
  return dataclasses.replace(reference, features=features, images=None)
