"""A small picture as the condition of a larger one, with noise on it.

Noise conditioning augmentation (arXiv:2106.15282, section 3): a model that
enlarges what another made is trained on small pictures with noise, and told
how much there is, so that it does not lean on their finest details.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.systems import encoders


Batch = Mapping[str, jax.Array]

# What training adds to a batch, and what may be given in sampling too.
DEVIATION, NOISE = 'lr_deviation', 'lr_noise'
_SEED = 0  # of the noise in sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyPictureEncoder:
  """The small picture with noise, enlarged bilinearly to the model's grid.

  The null condition keeps it: what guidance compares differs in the rest.

  Attributes:
    size: px of a side of the result.
    factor: size over the side of the small picture.
    low: smallest deviation of the noise in training, above 0.
    high: largest; its logarithm is uniform between both.
    sampling: deviation where the batch has none, above 0.
  """

  size: int
  factor: int
  low: float = 0.01
  high: float = 0.5
  sampling: float = 0.1
  trained: bool = False

  @property
  def widths(self) -> encoders.Widths:
    return encoders.Widths(concat=3)

  @property
  def example(self) -> Batch:
    side = self.size // self.factor
    return {'lr_image': jnp.zeros((1, side, side, 3))}

  def init(self, key: jax.Array) -> Any:
    del key
    return {}

  def perturbed(self, batch: Batch, key: jax.Array) -> Batch:
    """Returns a training batch with noise for its small pictures.

    Args:
      batch: with `lr_image` (B, h, w, 3) in [-1, 1].
      key: of the noise and its deviations.
    """
    level_key, noise_key = jax.random.split(key)
    shape = batch['lr_image'].shape
    low, high = math.log(self.low), math.log(self.high)
    level = jax.random.uniform(level_key, shape[:1], minval=low, maxval=high)
    noise = jax.random.normal(noise_key, shape)
    return {**batch, DEVIATION: jnp.exp(level), NOISE: noise}

  def encode(self, params: Any, batch: Batch) -> encoders.Inputs:
    """Returns the channels (B, size, size, 3), and the log of the deviation.

    Args:
      params: none.
      batch: with `lr_image`, perhaps with `lr_deviation` (B,) and `lr_noise`
        of its shape; without them `sampling` and noise that is always the
        same.

    Raises:
      ValueError: a picture of another size.
    """
    del params
    small = batch['lr_image'].astype(jnp.float32)
    b, side = small.shape[0], self.size // self.factor
    if small.shape != (b, side, side, 3):
      raise ValueError(
        f'the small picture has shape {small.shape}, must be'
        f' {(b, side, side, 3)}'
      )
    if NOISE in batch:
      noise, deviation = batch[NOISE], batch[DEVIATION]
    else:
      noise = jax.random.normal(jax.random.key(_SEED), small.shape)
      deviation = jnp.full((b,), self.sampling)
    noisy = small + deviation[:, None, None, None] * noise
    shape = (b, self.size, self.size, 3)
    return encoders.Inputs(
      concat=jax.image.resize(noisy, shape, 'bilinear'),
      concat_noise=jnp.log(deviation),
    )

  def null(self, params: Any, batch: Batch) -> encoders.Inputs:
    return self.encode(params, batch)


def create(config: ConfigDict) -> NoisyPictureEncoder:
  """Builds the encoder of a config.

  Raises:
    ValueError: a size that the factor does not divide.
  """
  c, size, factor = (
    config.condition,
    config.data.image_size,
    config.data.lr_factor,
  )
  if size % factor:
    raise ValueError(
      f'config.data.image_size is {size}, must be divisible by'
      f' config.data.lr_factor = {factor}'
    )
  return NoisyPictureEncoder(
    size=size,
    factor=factor,
    low=c.lr_noise_low,
    high=c.lr_noise_high,
    sampling=c.lr_noise_sampling,
  )
