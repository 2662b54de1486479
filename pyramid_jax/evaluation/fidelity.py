"""FID and related scores of images: Inception, its reference, a table."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import hashlib
import pathlib
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import image_sources as sources
from pyramid_jax.evaluation import merging
from pyramid_jax.evaluation import network_files
from pyramid_jax.evaluation import protocols
from pyramid_jax.files import digests
from pyramid_jax.files import stores
from pyramid_jax.interop import parts
from pyramid_jax.interop.families import inception as family
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import inception
from pyramid_jax.metrics import inception_input
from pyramid_jax.metrics import inception_reference
from pyramid_jax.networks import inception as network_lib


Images = sources.Images
Score = bootstrap.Score
WEIGHTS = 'config.evaluate.inception'
REFERENCE = 'config.evaluate.reference'
# Real images whose features are kept for precision and recall, as many as
# the reference files of ADM have.
KEPT = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
  """The images that others are compared with."""

  statistics: inception_reference.Reference
  name: str  # Their source and their number.
  # Scores of one half of the images against the other, under names without
  # numbers; none of the statistics of a file.
  ceiling: Mapping[str, Score] = dataclasses.field(default_factory=dict)

  @property
  def label(self) -> str:
    """Its name, with the hash of images that were read."""
    digest = self.statistics.digest
    return f'{self.name}, contents {digest}' if digest else self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class FidEvaluator:
  """Inception with its weights."""

  extract: inception.Extract  # images -> features
  batch_size: int  # images at a time
  mesh: Mesh  # the devices of this process, which share them
  weights: str  # their file and its hash, for messages
  resize: str = inception_input.TF1  # see `inception_input.resized`
  reference: Reference | None = None  # None: the real images of a split

  @property
  def name(self) -> str:
    """What decides its scores, but for real images of a split."""
    reference = self.reference
    return f'{self.weights}, {"" if reference is None else reference.label}'

  def collected(
    self,
    images: Images,
    keep: int,
    parts: int = 1,
    noted: Callable[[np.ndarray, np.ndarray], None] | None = None,
  ) -> list[inception.State]:
    """Returns the states of all images of a source, see `inception.collect`.

    Several processes share the images and call it together, each with the
    result; but one with `noted`, which is called with places and images of each
    batch, takes all of them.
    """
    devices = mesh_lib.pure_data() if noted is None else self.mesh
    size = self.batch_size // self.mesh.size * devices.size

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
      for batch in sources.shared(images, size, devices):
        if noted is not None:
          noted(*batch)
        yield batch

    with errors.user_errors(value=errors.DATA):
      found = inception.collect(self.extract, batches(), keep, parts)
      if noted is None:
        found = _of_all(found)
      return inception.whole(found)


def _of_all(parts: inception.Parts) -> inception.Parts:
  """Returns the states of the images of all processes."""
  names = [str(number) for number in range(len(parts))]
  of = lambda x: inception.sets(dict(zip(names, x, strict=True)))
  none: inception.Parts = (None,) * len(parts)
  found = merging.merged_for_all({'real': of(parts)}, {'real': of(none)})
  return tuple(found['real'].parts[name] for name in names)


def find(config: ConfigDict) -> FidEvaluator | None:
  """Returns the evaluator of `create`, None with a warning without weights."""
  if config.evaluate.inception:
    return create(config)
  logging.warning('%s', inception.unavailable('', WEIGHTS))
  return None


def create(config: ConfigDict, compare: bool = True) -> FidEvaluator:
  """Reads the weights, and the reference of the config if `compare`.

  Raises:
    UserError: weights or reference that are missing, damaged or of another
      kind.
  """
  with errors.user_errors(value=errors.DATA):
    path = inception.require_weights(config.evaluate.inception, WEIGHTS)
    variables = parts.load_part('inception', path, family.template())
  mesh, size = network_files.local_devices(config)
  evaluator = FidEvaluator(
    extract=inception.extractor(
      variables, size, mesh, resize=config.evaluate.resize
    ),
    resize=config.evaluate.resize,
    batch_size=size,
    mesh=mesh,
    weights=network_files.label(path),
  )
  if not compare:
    return evaluator
  if not config.evaluate.reference:
    return _with_split(config, evaluator)
  side = network_lib.SIDE
  image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
  apply = network_lib.InceptionV3().apply
  reference = _named_reference(
    evaluator,
    files.local(config.evaluate.reference, REFERENCE),
    jax.eval_shape(apply, variables, image),
    config.data.workers,
  )
  return dataclasses.replace(evaluator, reference=reference)


def _with_split(config: ConfigDict, evaluator: FidEvaluator) -> FidEvaluator:
  """Adds all images of the split of a protocol that compares with one."""
  split = protocols.of(config).reference
  if split == protocols.CONDITIONS:
    return evaluator
  real = sources.of_split(config, split, evaluator.mesh, every=True)
  logging.info(
    'reading %s (%d images); --write_reference keeps their statistics',
    *(real.name, real.count),
  )
  even, odd = evaluator.collected(real, KEPT, 2)
  name = f'{real.name} ({real.count} images)'
  reference = reference_of(even, odd, name, evaluator.resize)
  return dataclasses.replace(evaluator, reference=reference)


def _digest(path: pathlib.Path) -> str:
  return f'sha256 {digests.sha256(path)[:8]}'


def reference_of(
  even: inception.State, odd: inception.State, name: str, resize: str
) -> Reference:
  """Returns the reference of all real images, given two halves of them."""
  scores: Mapping[str, Score] = {}
  if odd.pool.count > 1:
    scores = inception.scores(even, inception.reference_of(odd, resize))
  return Reference(
    statistics=inception.reference_of(even.merge(odd), resize),
    name=name,
    ceiling={plain(name): score for name, score in scores.items()},
  )


def plain(name: str) -> str:
  """Returns the name of a score without its number of images."""
  return name.rpartition('_')[0]


def _named_reference(
  evaluator: FidEvaluator,
  path: pathlib.Path,
  features: network_lib.Outputs,
  threads: int,
) -> Reference:
  """Returns the statistics of a file, or of a folder of images.

  Those of other features than the ones of an image, `features`, are refused.
  """
  if not path.exists():
    raise errors.UserError(f'{REFERENCE} is {path}: not there.', errors.MISSING)
  if path.is_dir():
    real = sources.of_folder(path, threads)
    even, odd = evaluator.collected(real, KEPT, 2)
    with errors.user_errors(value=errors.DATA):
      name = f'{real.name} ({real.count} images)'
      return reference_of(even, odd, name, evaluator.resize)
  with errors.user_errors(value=errors.DATA):
    statistics = inception_reference.read(path, evaluator.resize)
    pool, spatial = features.pool.shape[1], features.spatial.shape[1]
    have = {'mu': (len(statistics.pool.mean), pool)}
    if statistics.spatial is not None:
      have['mu_s'] = (len(statistics.spatial.mean), spatial)
    if statistics.features is not None:
      have['features'] = (statistics.features.shape[-1], pool)
    for name, (got, want) in have.items():
      if got != want:
        raise ValueError(
          f'{path}: {name} is of {got} features, those of Inception are {want}.'
        )
    statistics = inception.with_features(statistics, evaluator.extract)
  count = statistics.count
  images = 'unknown number of images' if count is None else f'{count} images'
  return Reference(
    statistics=statistics, name=f'{path} ({images}, {_digest(path)})'
  )


def write_reference(config: ConfigDict, options: Mapping[str, Any]) -> None:
  """Writes the statistics of real images, for `config.evaluate.reference`.

  The options are `write_reference`, a new .npz, which may be one in a store,
  and `samples`, all of which are read, or `split`, of which
  `config.evaluate.count` images are drawn.

  Raises:
    UserError: the file exists or cannot be written, or images or weights are
      missing.
  """
  path = stores.path(options['write_reference'])
  has_folder = stores.is_remote(path) or path.parent.is_dir()
  if path.suffix != '.npz' or path.exists() or not has_folder:
    raise errors.UserError(
      f'--write_reference={path}: must be a new file in a folder that is there,'
      ' and end in .npz.',
      errors.OUTPUT,
    )
  evaluator = create(config, compare=False)
  if options.get('samples'):
    samples = stores.path(options['samples'])
    real, _ = sources.of_saved(samples, config.data.workers)
  else:
    split = options.get('split') or 'train'
    real = sources.of_split(config, split, evaluator.mesh, shuffle=True)
  need = min(real.count, KEPT) * network_lib.FEATURES * 4
  errors.check_room(path, need)
  digest, first = hashlib.sha256(), []

  def noted(places: np.ndarray, images: np.ndarray) -> None:
    digest.update(images.tobytes())
    first.append(images[places < KEPT])

  (state,) = evaluator.collected(real, KEPT, noted=noted)
  with errors.user_errors(value=errors.DATA, missing=errors.OUTPUT):
    statistics = inception_reference.Statistics(
      mu=state.pool.mean,
      sigma=state.pool.covariance,
      mu_s=state.spatial.mean,
      sigma_s=state.spatial.covariance,
      images=np.concatenate(first),
      features=state.features,
      count=round(state.pool.count),
      source=digest.hexdigest(),
      resize=evaluator.resize,
    )
    layout = config.evaluate.reference_layout
    inception_reference.write(path, statistics, layout)
  logging.info('statistics of %s in %s', real.name, path)
