"""Networks whose features tables compare, apart from Inception.

CMMD, FD-DINOv2, and precision and recall of VGG16. Each has a field of the
config that names its file; without it the score is left out, with a line.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
import pathlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.data.pixels import images as images_lib
from pyramid_jax.evaluation import network_files
from pyramid_jax.interop import parts
from pyramid_jax.interop import weight_file
from pyramid_jax.interop.families import clip_vision
from pyramid_jax.interop.families import dinov2
from pyramid_jax.metrics import batched
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import cmmd
from pyramid_jax.metrics import feature_sets
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import precision_recall
from pyramid_jax.metrics import squares
from pyramid_jax.networks import vgg
from pyramid_jax.networks import vision_transformer
from pyramid_jax.networks.layers import resampling


Set = feature_sets.FeatureSet
# (N, H, W, 3) uint8 -> (N, D) float32
Extract = Callable[[np.ndarray], np.ndarray]
Scores = dict[str, bootstrap.Score]
State = Mapping[str, np.ndarray]

DINO_SIDE = 224  # pixels of what DINOv2 is given
_CMMD_CLIP = 'l14_336'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
  """One of the networks, and what is made of its features."""

  title: str
  field: str  # of the section `evaluate`
  file: str  # the published file
  # State dict and file -> name of the variant, and the extractor.
  load: Callable[[State, pathlib.Path, Mesh, int], tuple[str, Extract]]
  # Samples and real images -> scores without number of images.
  scores: Callable[[Set, Set], Scores]
  keep: int = 0  # images of a set whose features are kept; 0 for moments

  @property
  def where(self) -> str:
    """The field, as messages name it."""
    return f'config.evaluate.{self.field}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
  """A network with its weights, and perhaps the images to compare with."""

  kind: Kind
  variant: str  # of the network, '' where there is one
  extractor: Extract
  weights: str  # their file and its hash, for messages
  # Two halves of the real images; None: those that come with the samples.
  real: tuple[Set, Set] | None = None
  real_name: str = ''

  @property
  def name(self) -> str:
    """What decides its scores, but for real images of a split."""
    halves = self.real or ()
    contents = ' '.join(half.contents.digest for half in halves)
    return f'{self.kind.title}, {self.weights}, {self.real_name} {contents}'

  def set_of(
    self, images: np.ndarray, features: np.ndarray, places: np.ndarray
  ) -> Set:
    """Returns what is kept of images (B, H, W, 3) uint8 at places (B,)."""
    return Set.of_images(images, features, places, self.kind.keep)

  def scores(self, samples: Set, real: Set) -> Scores:
    """Returns the scores of samples, their names with the variant."""
    with errors.user_errors(value=errors.DATA):
      found = self.kind.scores(samples, real)
    more = f'_{self.variant}' if self.variant else ''
    return {f'{name}{more}': score for name, score in found.items()}


def weights_of(config: ConfigDict, kind: Kind) -> pathlib.Path | None:
  """Returns the file of a network, None with a line where none is named.

  Raises:
    UserError: a file that is not there.
  """
  given = config.evaluate[kind.field]
  missing = functools.partial(
    network_files.unavailable, kind.title, kind.file, kind.where
  )
  if not given:
    logging.info('%s', missing('it is not set'))
    return None
  path = files.local(given, kind.where)
  if not path.is_file():
    raise errors.UserError(missing(f'{path} is no file'), errors.MISSING)
  return path


def find(config: ConfigDict) -> list[FeatureNetwork]:
  """Returns the networks whose files the config names.

  Raises:
    UserError: weights that are missing, damaged or of another kind.
  """
  found = []
  mesh, size = network_files.local_devices(config)
  for kind in KINDS:
    path = weights_of(config, kind)
    if path is None:
      continue
    with errors.user_errors(value=errors.DATA):
      variant, extract = kind.load(weight_file.read(path), path, mesh, size)
    network = FeatureNetwork(
      kind=kind,
      variant=variant,
      extractor=extract,
      weights=network_files.label(path),
    )
    found.append(network)
  return found


def extractor(
  family: str,
  path: pathlib.Path,
  network: Any,
  prepare: Callable[[jax.Array], jax.Array],
  devices: tuple[Mesh, int],
  side: int,
) -> Extract:
  """Returns the features of a network whose weights a file has.

  Args:
    family: of its converter.
    path: the file.
    network: a Flax module.
    prepare: makes uint8 images its input, in the program.
    devices: see `network_files.local_devices`.
    side: pixels of its input.
  """
  image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)
  params = parts.load_part(family, path, shapes['params'])

  def program(params, images):
    return network.apply({'params': params}, prepare(images))

  mesh, size = devices
  run = batched.on_host(program, params, size, mesh)
  return lambda images: run(images_lib.check_batch(images))


def of_clip(
  state: State, path: pathlib.Path, mesh: Mesh, size: int
) -> tuple[str, vision_transformer.VisionTransformer, Extract]:
  """Returns name, network and embeddings of square images of CLIP."""
  network = clip_vision.infer(state)
  variant = vision_transformer.variant(network, vision_transformer.CLIPS)
  side = network.patch * network.grid
  scale = lambda x: vision_transformer.scaled(
    x, vision_transformer.CLIP_SCALING
  )
  run = extractor('clip_vision', path, network, scale, (mesh, size), side)
  return variant, network, lambda images: unit(run(images))


def unit(x: np.ndarray) -> np.ndarray:
  """Returns rows (N, D) of length 1."""
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def _load_cmmd(
  state: State, path: pathlib.Path, mesh: Mesh, size: int
) -> tuple[str, Extract]:
  variant, network, embed = of_clip(state, path, mesh, size)
  if variant != _CMMD_CLIP:
    raise ValueError(
      f'{path} is {variant} of CLIP, CMMD is by {_CMMD_CLIP} (ViT-L/14@336px)'
    )
  prepare = squares.of_cmmd(network.patch * network.grid)
  return '', lambda images: embed(prepare(images))


def _load_dinov2(
  state: State, path: pathlib.Path, mesh: Mesh, size: int
) -> tuple[str, Extract]:
  network = dinov2.infer(state)
  variant = vision_transformer.variant(network, vision_transformer.DINOS)
  run = extractor('dinov2', path, network, dino_input, (mesh, size), DINO_SIDE)
  return variant, run


def dino_input(images: jax.Array) -> jax.Array:
  """Maps (B, H, W, 3) uint8 to (B, 224, 224, 3) of mean 0, deviation 1.

  NVlabs/edm2: calculate_metrics.py, resize_mode='torch': bicubic with
  antialiasing, not rounded.
  """
  size = (len(images), DINO_SIDE, DINO_SIDE, 3)
  x = jax.image.resize(images.astype(jnp.float32), size, 'bicubic')
  return vision_transformer.scaled(x, vision_transformer.IMAGENET_SCALING)


def _load_vgg(
  state: State, path: pathlib.Path, mesh: Mesh, size: int
) -> tuple[str, Extract]:
  del state
  run = extractor('vgg16', path, vgg.VGG16(), vgg_input, (mesh, size), vgg.SIDE)
  return '', run


def vgg_input(images: jax.Array) -> jax.Array:
  """Maps (B, H, W, 3) uint8 to (B, 224, 224, 3) of mean 0, deviation 1.

  toshas/torch-fidelity: torch_fidelity/feature_extractor_vgg16.py.
  """
  x = resampling.from_corner(images.astype(jnp.float32), (vgg.SIDE, vgg.SIDE))
  return vision_transformer.scaled(x, vision_transformer.IMAGENET_SCALING)


def _cmmd(samples: Set, real: Set) -> Scores:
  value = cmmd.distance(samples.features, real.features)
  return {'cmmd': bootstrap.without_interval(value, len(samples.features))}


def _fd_dinov2(samples: Set, real: Set) -> Scores:
  assert samples.moments is not None
  assert real.moments is not None
  fits = map(frechet.fit_moments, (samples.moments, real.moments))
  value = frechet.distance(*fits)
  return {'fd_dinov2': bootstrap.without_interval(value, samples.count)}


def _vgg_precision(samples: Set, real: Set) -> Scores:
  ours, theirs = samples.features, real.features
  if min(len(ours), len(theirs)) <= max(precision_recall.NEIGHBOURS):
    return {}
  precision, recall = precision_recall.precision_recall(theirs, ours)
  return {
    'vgg_precision': bootstrap.proportion(precision[0], len(ours)),
    'vgg_recall': bootstrap.proportion(recall[0], len(theirs)),
  }


KINDS = (
  Kind(
    title='CMMD',
    field='cmmd',
    file='ViT-L-14-336px.pt of openai/CLIP or model.safetensors of'
    ' openai/clip-vit-large-patch14-336',
    load=_load_cmmd,
    scores=_cmmd,
    keep=50_000,
  ),
  Kind(
    title='FD-DINOv2',
    field='dinov2',
    file='dinov2_vitl14_pretrain.pth',
    load=_load_dinov2,
    scores=_fd_dinov2,
  ),
  Kind(
    title='VGG precision and recall',
    field='vgg16',
    file='vgg16-397923af.pth',
    load=_load_vgg,
    scores=_vgg_precision,
    keep=20_000,
  ),
)
