"""PiDiNet: edges from few parameters (arXiv:2108.07009).

Its pixel differences are plain convolutions once their kernels are rewritten,
which the converter of its weights does. Only inference is here.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import lpips
from pyramid_jax.networks.layers import options


# Channels of the first stage and of the dilated convolutions, by the names of
# Table 5; those that end in -l have no dilated convolutions and no attention.
SIZES = {
  'pidinet': (60, 24),
  'pidinet-small': (30, 12),
  'pidinet-tiny': (20, 8),
}
# Pixel differences in the kernels of the 16 layers, in turn: to the centre,
# around it, along its radii, and none.
CYCLE = ('cd', 'ad', 'rd', 'cv')
BLOCKS = (3, 4, 4, 4)  # The blocks of the stages.
WIDTHS = (1, 2, 4, 4)  # The widths of the stages over the first.
DILATIONS = (5, 7, 9, 11)
SMALLEST_SIDE = 2 ** (len(BLOCKS) - 1)


def kernel_size(layer: int) -> int:
  """Returns the side of the plain kernel of a layer, 0 = the first."""
  return 5 if CYCLE[layer % len(CYCLE)] == 'rd' else 3


class PiDiNet(nn.Module):
  """Edges at four scales, and their mixture."""

  width: int = 60  # channels of the first stage
  dilated: int = 24  # channels of the dilated convolutions; 0 = without
  attention: bool = True  # whether each scale is weighed by place
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> list[jax.Array]:
    """Maps images to edges, fine to coarse; the last map is the result.

    The images are (B, H, W, 3) in [-1, 1], with sides of at least 8 pixels,
    else ValueError; the five maps (B, H, W) float32 in [0, 1].
    """
    options.check_image('PiDiNet', x, SMALLEST_SIDE)
    size = (x.shape[1], x.shape[2])
    # The mean and deviation of ImageNet, as LPIPS writes them.
    x = ((x - lpips.SHIFT) / lpips.SCALE).astype(self.dtype)
    x = _conv(self.width, kernel_size(0), 'init_block')(x)
    layer, maps = 1, []
    for i, count in enumerate(BLOCKS):
      for j in range(count):
        fields = (WIDTHS[i] * self.width, kernel_size(layer), i > 0 and j == 0)
        x = Block(*fields, name=f'block{i + 1}_{j + 1}')(x)
        layer += 1
      maps.append(self._one_map(x, i, size))
    mixed = _conv(1, 1, 'classifier', use_bias=True)(jnp.concatenate(maps, -1))
    return [nn.sigmoid(e[..., 0].astype(jnp.float32)) for e in (*maps, mixed)]

  def _one_map(
    self, x: jax.Array, stage: int, size: tuple[int, int]
  ) -> jax.Array:
    if self.dilated:
      x = Dilated(self.dilated, name=f'dilations_{stage}')(x)
    if self.attention:
      x = Attention(name=f'attentions_{stage}')(x)
    x = _conv(1, 1, f'conv_reduces_{stage}', use_bias=True)(x)
    return jax.image.resize(x, (x.shape[0], *size, 1), 'bilinear')

  def edges(self, images: jax.Array) -> jax.Array:
    """Maps (B, H, W, 3), uint8 or in [-1, 1], to (B, H, W) edges in [0, 1]."""
    x = jnp.asarray(images)
    if x.dtype == jnp.uint8:
      x = x.astype(jnp.float32) / 127.5 - 1
    return self(x)[-1]


def _conv(
  features: int, size: int, name: str, use_bias: bool = False, dilation: int = 1
) -> nn.Conv:
  """Returns a convolution that keeps the size, in its input's dtype."""
  pad = dilation * (size // 2)
  return nn.Conv(
    features,
    (size, size),
    padding=((pad, pad), (pad, pad)),
    kernel_dilation=dilation,
    use_bias=use_bias,
    name=name,
  )


class Depthwise(nn.Module):
  """Convolves each channel with a kernel of its own.

  It is a sum of shifted copies: XLA's convolution in groups is ten times
  slower on a CPU.
  """

  size: int  # side of the kernel, odd

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to the same shape."""
    _, height, width, channels = x.shape
    shape = (self.size, self.size, 1, channels)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    kernel = kernel.astype(x.dtype)
    pad = self.size // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    total = jnp.zeros_like(x)
    for i in range(self.size):
      for j in range(self.size):
        total += kernel[i, j, 0] * padded[:, i : i + height, j : j + width]
    return total


class Block(nn.Module):
  """A depthwise and a pointwise convolution as a residual."""

  features: int  # channels of the result
  size: int  # side of the depthwise kernel
  pooled: bool  # whether 2 x 2 pixels become one first

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H', W', features)."""
    if self.pooled:
      x = nn.max_pool(x, (2, 2), (2, 2))
    y = nn.relu(Depthwise(self.size, name='conv1')(x))
    y = _conv(self.features, 1, 'conv2')(y)
    if self.pooled:
      x = _conv(self.features, 1, 'shortcut', use_bias=True)(x)
    return x + y


class Dilated(nn.Module):
  """Looks at four distances at once (CDCM of the paper)."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H, W, features)."""
    x = _conv(self.features, 1, 'conv1', use_bias=True)(nn.relu(x))
    total = jnp.zeros_like(x)
    for number, dilation in enumerate(DILATIONS, start=1):
      conv = _conv(self.features, 3, f'conv2_{number}', dilation=dilation)
      total += conv(x)
    return total


class Attention(nn.Module):
  """Weighs every place (CSAM of the paper)."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to the same shape."""
    y = _conv(4, 1, 'conv1', use_bias=True)(nn.relu(x))
    return x * nn.sigmoid(_conv(1, 3, 'conv2')(y))
