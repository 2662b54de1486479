"""LPIPS of images and of the ones that they should equal.

Those are the originals of a first stage, and the whole images of
super-resolution and inpainting. What tables of first stages call PSIM is this
distance.
"""

from collections.abc import Callable
import dataclasses

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.evaluation import network_files
from pyramid_jax.interop import parts
from pyramid_jax.metrics import batched
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import states
from pyramid_jax.networks import lpips


WEIGHTS = 'config.evaluate.lpips'
SCORE = 'lpips'
# Of inpainting also that of images of which this share is a hole: the second
# column of arXiv:2112.10752, table 7, as in arXiv:2109.07161 (from memory).
HOLES = (0.4, 0.5)
_OF_HOLES = f'{SCORE}_holes_40_50'

# (N, H, W, 3) uint8 twice -> (N,)
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perceptual(states.Means):
  """The mean distance as a `states.Measure`."""

  distance: Distance
  weights: str  # their file and its hash, for messages

  def of_images(self, batch: states.Batch) -> states.Columns:
    """Returns pairs; images whose targets are not known do not count."""
    targets = batch.examples.get('image', batch.real)
    if targets is None or not len(targets):
      return {}
    values = np.full(len(batch.images), np.nan)
    count = len(targets)
    values[:count] = self.distance(batch.images[:count], targets)
    columns = {SCORE: values}
    if 'inpaint_mask' in batch.examples:
      shares = (batch.examples['inpaint_mask'] > 0).mean((1, 2))
      low, high = HOLES
      is_within = (shares >= low) & (shares < high)
      columns[_OF_HOLES] = np.where(is_within, values, np.nan)
    return {n: bootstrap.mean_pairs(x) for n, x in columns.items()}

  def rows(
    self, images: states.Columns, real: states.Columns
  ) -> list[bootstrap.Row]:
    found = super().rows(images, real)
    return [row for row in found if row.name != _OF_HOLES or row.score.n]


def find(config: ConfigDict) -> Perceptual | None:
  """Returns the measure, None with a line that says what to put where.

  Raises:
    UserError: weights that are missing, damaged or of another kind.
  """
  given = config.evaluate.lpips
  missing = (
    "LPIPS is unavailable: put torchvision's VGG16 and vgg.pth of LPIPS 0.1,"
    f' separated by a comma, at {WEIGHTS}'
  )
  if not given:
    logging.info('%s; it is not set.', missing)
    return None
  paths = files.local_all(given, WEIGHTS)
  for path in paths:
    if not path.is_file():
      text = f'{missing}; {path} is no file.'
      raise errors.UserError(text, errors.MISSING)
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  shapes = jax.eval_shape(lpips.LPIPS().init, jax.random.key(0), image, image)
  with errors.user_errors(value=errors.DATA):
    params = parts.load_part('lpips', given, shapes['params'], WEIGHTS)
  mesh, size = network_files.local_devices(config)
  return Perceptual(
    distance=distance(params, size, mesh),
    weights=', '.join(map(network_files.label, paths)),
  )


def distance(params: object, size: int, mesh: Mesh) -> Distance:
  """Returns the distance by parameters of the network, in float32.

  Of `size` pairs at a time, missing ones are filled up with blank ones; the
  devices of the mesh divide them.
  """
  network = lpips.LPIPS()

  def program(params, a, b):
    scaled = (x.astype(np.float32) / 127.5 - 1 for x in (a, b))
    return network.apply({'params': params}, *scaled)

  return batched.on_host(program, params, size, mesh)
