"""From low to high dynamic range: the light that white hides.

The report on LaDM (arXiv:2411.07126) turns panoramas into ones of high dynamic
range with a network of its own, of which nothing more is known here. This one
is ours, small, and trained on images of high dynamic range of one's own: each
is exposed by chance, clipped and rounded to 8 bits, and a U-Net predicts what
is lost where it is nearly white. The blend of both, from values of `SATURATED`
on, follows Eilertsen et al. (arXiv:1710.07480); everything else, the mu-law in
which light is predicted and the loss among it, does not.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pretrained
from pyramid_jax.networks import unet
from pyramid_jax.networks.layers import tone_curves
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import sampled
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights

SATURATED = 0.95  # of white, in sRGB; from here on light is predicted

FIELDS = {
  'hdr.exposure': Field(
    (0.5, 4.0),
    'The factors of the exposure in training, whose logarithm is uniform'
    ' between both.',
    length=(2,),
    above=0,
    high=ranges.WEIGHT,
  ),
  **sample_fields.IMAGES,
}


def network_class(values: Mapping[str, Any]) -> Any:
  """Returns the class whose constructor fields are `config.network`."""
  del values
  return unet.UNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hdr:
  """The system; see the module and `systems.system.Reconstructing`.

  Images of a batch are on the mu-law curve of `tone_curves`, from -1 to 1.
  """

  model: unet.UNet  # of the image and of what is added to it
  exposure: tuple[float, float]  # the range of factors in training
  image_size: int  # px
  codebooks: tuple[int, ...] = ()
  outputs: ClassVar[str] = system_lib.RECONSTRUCTIONS

  def example_rows(self) -> Batch:
    return {}

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    image = jnp.zeros((1, self.image_size, self.image_size, 3))
    tree = self.model.init(key, image, jnp.zeros((1,)))['params']
    return {'generator': tree}, {}

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    return {}

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    del step
    low, high = (jnp.log(x) for x in self.exposure)
    shape = (batch['image'].shape[0], 1, 1, 1)
    factor = jnp.exp(jax.random.uniform(key, shape, minval=low, maxval=high))
    light = factor * tone_curves.decoded((batch['image'] + 1.0) / 2.0)
    low_range = clipped(light)
    found = self._encoded(weights, low_range)
    error = jnp.abs(found - tone_curves.encoded(light))
    # Elsewhere no weight changes the result.
    share = saturated(low_range)
    loss = (share * error).sum() / (3.0 * share.sum() + 1.0)
    metrics = {'error': error.mean(), 'saturated': share.mean()}
    return {'generator': (loss, metrics)}, weights.extra

  def ema_patterns(self) -> list[str]:
    return ['generator/.*']

  def check_extra(self, extra: Params) -> None:
    del extra

  def reconstruct(
    self, weights: Weights, image: jax.Array, scales: int | None = None
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Clips images and predicts what is lost, on the mu-law, in [-1, 1]."""
    del scales  # there is one
    light = tone_curves.decoded((image + 1.0) / 2.0)
    return 2.0 * self._encoded(weights, clipped(light)) - 1.0, []

  def radiance(self, weights: Weights, image: jax.Array) -> jax.Array:
    """Returns light (B, H, W, 3) of sRGB images in [0, 1]; 1 is white."""
    return tone_curves.decoded(self._encoded(weights, image))

  def _encoded(self, weights: Weights, image: jax.Array) -> jax.Array:
    """Returns what is predicted of sRGB images, on the curve in [0, 1]."""
    known = tone_curves.encoded(tone_curves.from_srgb(image))
    added = params_lib.apply(
      self.model,
      weights.params['generator'],
      2.0 * image - 1.0,
      jnp.zeros(image.shape[:1]),
    )
    share = saturated(image)
    return jnp.clip(known + share * added.astype(jnp.float32), 0.0, 1.0)


def clipped(light: jax.Array) -> jax.Array:
  """Returns light as an image of 8 bits: sRGB in [0, 1]."""
  return jnp.round(255.0 * tone_curves.to_srgb(light)) / 255.0


def saturated(image: jax.Array) -> jax.Array:
  """Returns (B, H, W, 1) in [0, 1], how near to white is what is brightest."""
  most = image.max(-1, keepdims=True)
  return jnp.clip((most - SATURATED) / (1.0 - SATURATED), 0.0, 1.0)


def create(config: ConfigDict) -> Hdr:
  """Builds the system; raises ValueError for fields that do not fit."""
  reason = ' for hdr, whose images are on the mu-law'
  fields_lib.check_value('data.name', config.data.name, ('hdr',), reason)
  low, high = config.hdr.exposure
  if low > high:
    raise ValueError(f'config.hdr.exposure is {(low, high)}, must be rising')
  model = unet.UNet(
    **sampled.network_fields(config), in_channels=3, out_channels=3
  )
  model.check_options()
  return Hdr(
    model=model, exposure=(low, high), image_size=config.data.image_size
  )
