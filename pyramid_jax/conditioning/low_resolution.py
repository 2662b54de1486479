"""A low-resolution image as the condition of a larger one.

It is concatenated with a latent as it is, for it has the latent's grid
(arXiv:2112.10752, section 4.4). For a model of images it is enlarged, and for
one of Laplacian processes it has noise on it: noise conditioning augmentation
(arXiv:2106.15282, section 3). A model that enlarges what another made is
trained on low-resolution images with noise, and conditioned on how much there
is, so that it does not rely on their finest details. Enlarged, they are also a
prior of the image (`Inputs.prior`).
"""

import dataclasses
import math
from typing import Any

from einops import rearrange
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoder
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import laplacian_loss


# Keys that training adds to a batch; they may be given in sampling.
DEVIATION, NOISE = 'lr_deviation', 'lr_noise'
_SEED = 0  # The seed of the noise in sampling.


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowResolutionEncoder(encoder.Encoder):
  """The low-resolution image itself, which has the latent's grid.

  Attributes:
    side: the side of the low-resolution image, px.
  """

  side: int

  widths = encoder.Widths(concat=3)

  @property
  def example(self) -> encoder.Batch:
    return {'lr_image': jnp.zeros((1, self.side, self.side, 3))}

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    del params
    return encoder.Inputs(concat=batch['lr_image'].astype(jnp.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnlargedEncoder(LowResolutionEncoder):
  """The low-resolution image, enlarged bicubically to the model's grid.

  It is the condition of models of images as in SR3 (arXiv:2104.07636).

  Attributes:
    factor: side of the result over `side`.
  """

  factor: int

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    del params
    small = batch['lr_image'].astype(jnp.float32)
    b, height, width, channels = small.shape
    shape = (b, self.factor * height, self.factor * width, channels)
    return encoder.Inputs(concat=jax.image.resize(small, shape, 'cubic'))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyImageEncoder(LowResolutionEncoder):
  """The low-resolution image with noise, enlarged to the model's grid.

  The null condition is the same: guidance acts on the other condition.

  Attributes:
    factor: side of the result over `side`.
    levels: resolutions of the pyramid.
    low: smallest standard deviation of the noise in training, above 0.
    high: largest; its logarithm is uniform between both.
    sampling: standard deviation where the batch has none, above 0.
  """

  factor: int
  levels: int
  low: float = 0.01
  high: float = 0.5
  sampling: float = 0.1

  def augmented(self, batch: encoder.Batch, key: jax.Array) -> encoder.Batch:
    """Returns a training batch with `lr_deviation` and `lr_noise`."""
    level_key, noise_key = jax.random.split(key)
    shape = batch['lr_image'].shape
    low, high = math.log(self.low), math.log(self.high)
    level = jax.random.uniform(level_key, shape[:1], minval=low, maxval=high)
    noise = jax.random.normal(noise_key, shape)
    return {**batch, DEVIATION: jnp.exp(level), NOISE: noise}

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    """Returns the enlarged image, and the logarithm of the deviation.

    A batch has `lr_image` (B, side, side, 3), else ValueError, perhaps
    `lr_deviation` (B,) and `lr_noise` of the image's shape; without them the
    deviation is `sampling` and the noise always the same.
    """
    small = batch['lr_image'].astype(jnp.float32)
    needed = (len(small), self.side, self.side, 3)
    if small.shape != needed:
      raise ValueError(
        f'the low-resolution image has shape {small.shape}, must be {needed}'
      )
    if NOISE in batch:
      noise, deviation = batch[NOISE], batch[DEVIATION]
    else:
      noise = jax.random.normal(jax.random.key(_SEED), small.shape)
      deviation = jnp.full((len(small),), self.sampling)
    noisy = small + deviation[:, None, None, None] * noise
    mean = enlarged(noisy, self.factor)
    power = noise_powers(self.factor, self.levels)
    return encoder.Inputs(
      concat=mean,
      concat_noise=jnp.log(deviation),
      prior=laplacian_loss.Prior(mean, jnp.square(deviation)[:, None] * power),
    )

  def null(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    return self.encode(params, batch)


def with_cell_means(x: Any, small: Any) -> Any:
  """Returns x + up(y - down(x)): images whose cells have the given means.

  Args:
    x: (B, H, W, C), of JAX or of NumPy.
    small: (B, h, w, C), y; h and w divide H and W by the same factor.
  """
  factor = x.shape[1] // small.shape[1]
  cells = 'b (h i) (w j) c -> b h i w j c'
  missing = small - rearrange(x, cells, i=factor, j=factor).mean((2, 4))
  return x + missing.repeat(factor, 1).repeat(factor, 2)


def enlarged(small: jax.Array, factor: int) -> jax.Array:
  """Enlarges images (B, h, w, C) bicubically; pooled, they are `small`."""
  b, height, width, channels = small.shape
  shape = (b, factor * height, factor * width, channels)
  return with_cell_means(jax.image.resize(small, shape, 'cubic'), small)


def noise_powers(factor: int, levels: int) -> jax.Array:
  """Returns (L,) the powers of bands of enlarged white unit noise.

  They are those of the response to one pixel far from the border.
  """
  side = max(16, 2**levels)
  dot = jnp.zeros((1, side, side, 1)).at[0, side // 2, side // 2].set(1.0)
  parts = laplacian.bands(enlarged(dot, factor), levels)
  return jnp.stack([jnp.square(x).mean() * side**2 for x in parts])


def create(
  config: ConfigDict, first_stage: encoder.FirstStage
) -> LowResolutionEncoder:
  """Builds the encoder of 'superres', with noise for Laplacian processes.

  Raises:
    ValueError: sizes that do not fit.
  """
  size, factor = config.data.image_size, config.data.lr_factor
  if first_stage is not None:
    if factor != first_stage.factor:
      raise ValueError(
        f'config.data.lr_factor is {factor}, must be {first_stage.factor}, the'
        " factor of the first stage: the low-resolution image has the latent's"
        ' grid'
      )
    return LowResolutionEncoder(side=size // factor)
  if size % factor:
    raise ValueError(
      f'config.data.image_size is {size}, must be divisible by'
      f' config.data.lr_factor = {factor}'
    )
  if 'laplacian' not in config:
    return EnlargedEncoder(side=size // factor, factor=factor)
  c = config.condition
  return NoisyImageEncoder(
    side=size // factor,
    factor=factor,
    levels=config.laplacian.levels,
    low=c.lr_noise_low,
    high=c.lr_noise_high,
    sampling=c.lr_noise_sampling,
  )
