"""Perceptual distances: LPIPS on VGG16, and one that needs no weights."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import options
from pyramid_jax.networks.layers import resampling


# Of the images that VGG16 was trained on, for inputs in [-1, 1].
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)

# (channels, indices of the convolutions in torchvision's VGG16) of each slice;
# all but the first start with a maximum over 2 x 2 pixels.
SLICES = (
  (64, (0, 2)),
  (128, (5, 7)),
  (256, (10, 12, 14)),
  (512, (17, 19, 21)),
  (512, (24, 26, 28)),
)
FEATURE_NAMES = ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3', 'relu5_3')
SMALLEST_SIDE = 2 ** (len(SLICES) - 1)


class VGG16(nn.Module):
  """The convolutions of VGG16 (arXiv:1409.1556)."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> list[jax.Array]:
    """Maps scaled images (B, H, W, 3) to the activations of five depths."""
    features = []
    fields = affine.zero_bias(nn.initializers.he_normal())
    for number, (channels, indices) in enumerate(SLICES, start=1):
      if number > 1:
        x = nn.max_pool(x, (2, 2), (2, 2))
      for index in indices:
        name = f'slice{number}_{index}'
        conv = affine.Conv(channels, dtype=self.dtype, name=name, **fields)
        x = nn.relu(conv(x))
      features.append(x)
    return features


class LPIPS(nn.Module):
  """Distance of images as seen by VGG16 (arXiv:1801.03924, version 0.1).

  CompVis/taming-transformers: taming/modules/losses/lpips.py, in evaluation
  mode. Freshly initialised it is a distance too, of random features.
  """

  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.net = VGG16(self.dtype)
    self.lin = [Weighting(name=f'lin{k}') for k in range(len(SLICES))]

  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """Compares images (B, H, W, 3) in [-1, 1], sides of at least 16 pixels.

    The distance is (B,) float32, 0 at equal images, as is its gradient there.
    """
    if x.shape != y.shape:
      raise ValueError(
        f'LPIPS compares images of one shape, got {x.shape} and {y.shape}.'
      )
    distance = jnp.zeros(x.shape[0])
    features = (self.features(x), self.features(y))
    for lin, a, b in zip(self.lin, *features, strict=True):
      difference = _unit(a) - _unit(b)
      # Exactly zero, whatever a compiler contracts the line above to.
      same = jnp.all(a == b, -1, keepdims=True)
      distance += lin(jnp.where(same, 0, difference) ** 2)
    return distance

  def features(self, x: jax.Array) -> list[jax.Array]:
    """Maps (B, H, W, 3), sides of at least 16 px, to the `FEATURE_NAMES`."""
    options.check_image('LPIPS', x, SMALLEST_SIDE)
    return self.net((x - SHIFT) / SCALE)


class Weighting(nn.Module):
  """Averages a map over positions and weighs its channels."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B,)."""
    channels = x.shape[-1]
    even = nn.initializers.constant(1 / channels)
    kernel = self.param('kernel', even, (channels, 1))
    return (x.mean((1, 2)) * kernel[:, 0]).sum(-1)


def _unit(x: jax.Array) -> jax.Array:
  """Divides by the length of the vector of channels, in float32."""
  x = x.astype(jnp.float32)
  squares = jnp.sum(x**2, -1, keepdims=True)
  # The root has no derivative at dead features: they stay zero whatever they
  # are divided by.
  squares = jnp.where(squares > 0, squares, 1)
  return x / (jnp.sqrt(squares) + 1e-10)


def pyramid_l1_l2(x: jax.Array, y: jax.Array, levels: int = 4) -> jax.Array:
  """Returns the mean over a pyramid of absolute plus squared differences.

  It stands in for LPIPS where there are no weights of VGG16: coarse levels
  reward the layout of an image, not its pixels (ours). Every level averages
  2 x 2 pixels of the one before. Maps (B, H, W, C) with sides divisible by
  2 ** (levels - 1) to (B,) float32.

  Raises:
    ValueError: other shapes or levels.
  """
  factor = 2 ** (levels - 1) if levels > 0 else 0
  if x.shape != y.shape or x.ndim != 4:
    raise ValueError(f'two (B, H, W, C) needed, got {x.shape} and {y.shape}.')
  if not factor or x.shape[1] % factor or x.shape[2] % factor:
    raise ValueError(
      f'levels is {levels}, which must be positive and divide the sides of '
      f'{x.shape} by 2 ** (levels - 1).'
    )
  difference = (x - y).astype(jnp.float32)
  terms = []
  for level in range(levels):
    if level:
      difference = resampling.average_pool(difference)
    terms.append((jnp.abs(difference) + difference**2).mean((1, 2, 3)))
  return jnp.stack(terms).mean(0)
