"""Scores on features of networks while images come, batch by batch."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import feature_networks
from pyramid_jax.evaluation import fid_state
from pyramid_jax.evaluation import fidelity
from pyramid_jax.evaluation import image_sources as sources
from pyramid_jax.evaluation import merging
from pyramid_jax.evaluation import network_files
from pyramid_jax.evaluation import protocols
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import feature_sets
from pyramid_jax.metrics import named_sets
from pyramid_jax.metrics import states


FeatureNetwork = feature_networks.FeatureNetwork
Sets = named_sets.Sets[feature_sets.FeatureSet]
_HALVES = ('even', 'odd')  # of the real images


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureState:
  """What the scores of a network keep, as a `states.State`."""

  network: FeatureNetwork
  # The name of the real images that batches bring as `reference`; not used
  # where the network has real images.
  real: str
  run_size: int  # images of a run; places go from run to run
  sets: Sets  # `run0` ..., and two halves of the real images

  def update(self, batch: states.Batch) -> 'FeatureState':
    runs, places = np.divmod(batch.places, self.run_size)
    names = [f'run{run}' for run in runs]
    sets = with_images(self.network, self.sets, batch.images, places, names)
    real = batch.reference
    if self.network.real is None and real is not None and len(real):
      sets = _with_real(self.network, sets, real, batch.places[: len(real)])
    return dataclasses.replace(self, sets=sets)

  def merge(self, other: 'FeatureState') -> 'FeatureState':
    return dataclasses.replace(self, sets=self.sets.merge(other.sets))

  def finish(self) -> list[bootstrap.Row]:
    """Returns the scores of the samples; too few are a UserError."""
    network = self.network
    with errors.user_errors(value=errors.DATA):
      runs = [self.sets.whole(x) for x in self.sets.parts if x not in _HALVES]
      even, odd = network.real or _halves(self.sets)
    real = even.merge(odd)
    name = network.real_name or self.real
    label = f'{name}, contents {real.contents.digest}'
    bounds: Mapping[str, bootstrap.Score] = {}
    if min(even.count, odd.count) > 1:
      bounds = network.scores(even, odd)
    number = states.number(self.run_size)
    scores = [
      {f'{name}_{number}': x for name, x in network.scores(run, real).items()}
      for run in runs
    ]
    if not scores[0]:
      return []
    return [
      bootstrap.Row(
        name, score, bounds.get(fidelity.plain(name)), reference=label
      )
      for name, score in fid_state.of_runs(scores).items()
    ]

  @property
  def kept(self) -> dict[str, states.Kept]:
    return self.sets.kept

  @property
  def totals(self) -> dict[str, states.Array]:
    return self.sets.totals

  def restored(
    self, kept: Mapping[str, states.Kept], totals: states.Columns
  ) -> 'FeatureState':
    return dataclasses.replace(self, sets=self.sets.restored(kept, totals))


def start(
  network: FeatureNetwork, run_size: int, real: str, runs: int = 1
) -> FeatureState:
  """Returns the state of no images; see `FeatureState`."""
  names = [*(f'run{n}' for n in range(runs)), *_HALVES]
  return FeatureState(
    network=network, real=real, run_size=run_size, sets=_none(names)
  )


def notes(network: FeatureNetwork, real: str) -> str:
  """Returns one line with the source of the scores."""
  against = network.real_name or real
  return f'{network.kind.title} by {network.weights} against {against}'


def _none(names: Sequence[str]) -> Sets:
  return named_sets.Sets(
    kind=feature_sets.FeatureSet, parts=dict.fromkeys(names)
  )


def with_images(
  network: FeatureNetwork,
  sets: Sets,
  images: np.ndarray,
  places: np.ndarray,
  names: Sequence[str],
) -> Sets:
  """Adds images (B, H, W, 3) uint8 at places (B,) to sets of these names."""
  if not len(images):
    return sets
  features = network.extractor(images)
  return sets.added(
    names,
    lambda rows: network.set_of(images[rows], features[rows], places[rows]),
  )


def _with_real(
  network: FeatureNetwork, sets: Sets, images: np.ndarray, places: np.ndarray
) -> Sets:
  names = [_HALVES[place % 2] for place in places]
  return with_images(network, sets, images, places, names)


def with_reference(
  config: ConfigDict, networks: Sequence[FeatureNetwork]
) -> list[FeatureNetwork]:
  """Adds the real images that the config or its protocol names.

  They are read once for all networks: a folder, or all images of a split. A
  file of statistics is of Inception, and of no use here. Processes share the
  images and call it together.
  """
  real = _reference(config) if networks else None
  if real is None:
    return list(networks)
  mesh, size = network_files.local_devices(config)
  devices = mesh_lib.pure_data()
  size = size // mesh.size * devices.size
  found = {str(i): _none(_HALVES) for i in range(len(networks))}
  none = dict(found)
  logging.info('reading %s (%d images)', real.name, real.count)
  with errors.user_errors(value=errors.DATA):
    for places, images in sources.shared(real, size, devices):
      if len(images):
        found = {
          name: _with_real(networks[int(name)], sets, images, places)
          for name, sets in found.items()
        }
    merged = merging.merged_for_all(found, none)
    name = f'{real.name} ({real.count} images)'
    return [
      dataclasses.replace(network, real=_halves(sets), real_name=name)
      for network, sets in zip(networks, merged.values(), strict=True)
    ]


def _halves(
  sets: Sets,
) -> tuple[feature_sets.FeatureSet, feature_sets.FeatureSet]:
  even, odd = (sets.whole(name) for name in _HALVES)
  return even, odd


def _reference(config: ConfigDict) -> sources.Images | None:
  given = config.evaluate.reference
  path = files.local(given, fidelity.REFERENCE) if given else None
  if path is not None and path.is_dir():
    return sources.of_folder(path, config.data.workers)
  if path is not None:
    logging.warning(
      '%s is a file of statistics of Inception: scores on other features'
      ' compare with %s instead',
      *(path, protocols.of(config).reference),
    )
  split = protocols.of(config).reference
  if split == protocols.CONDITIONS:
    return None
  mesh, _ = network_files.local_devices(config)
  return sources.of_split(config, split, mesh, every=True)
