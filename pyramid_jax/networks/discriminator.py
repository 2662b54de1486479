"""The patch discriminator of the adversarial first stages."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import norms


WEIGHT_STD = 0.02
LEAK = 0.2

STATISTICS = norms.STATISTICS


class PatchDiscriminator(nn.Module):
  """Judges overlapping patches of an image (arXiv:1611.07004).

  CompVis/taming-transformers: taming/modules/discriminator/model.py,
  NLayerDiscriminator, names included. 2 layers see patches of 34 pixels, 3
  layers of 70.
  """

  ndf: int = 64  # channels after the first convolution
  n_layers: int = 3  # number of halvings
  # Whether learned scale and shift replace batch normalisation.
  use_actnorm: bool = False
  input_nc: int = 3  # channels of the image
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
    """Maps (B, H, W, input_nc) in [-1, 1] to logits (B, h, w, 1) float32.

    High means real; `train` is that of `norms.BatchNorm`.
    """
    if x.ndim != 4 or x.shape[-1] != self.input_nc:
      raise ValueError(
        f'the image must be (B, H, W, {self.input_nc}), got {x.shape}.'
      )
    conv = functools.partial(
      affine.Conv,
      kernel_size=4,
      padding=1,
      dtype=self.dtype,
      kernel_init=nn.initializers.normal(WEIGHT_STD),
    )
    # Names count the layers of the reference, activations included.
    x = nn.leaky_relu(conv(self.ndf, strides=2, name='main_0')(x), LEAK)
    for n in range(1, self.n_layers + 1):
      x = conv(
        self.ndf * min(2**n, 8),
        strides=2 if n < self.n_layers else 1,
        use_bias=self.use_actnorm,
        name=f'main_{3 * n - 1}',
      )(x)
      name = f'main_{3 * n}'
      if self.use_actnorm:
        x = ActNorm(self.dtype, name=name)(x)
      else:
        x = norms.BatchNorm(self.dtype, _around_one, name=name)(x, train)
      x = nn.leaky_relu(x, LEAK)
    x = conv(1, name=f'main_{3 * self.n_layers + 2}')(x)
    return x.astype(jnp.float32)


class ActNorm(nn.Module):
  """Learned shift and scale of every channel (arXiv:1807.03039).

  It starts as the identity; in the reference its start depends on the first
  batch of training.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to gain * (x + loc)."""
    # The reference's (1, C, 1, 1), laid out as a pointwise convolution.
    shape = (x.shape[-1], 1)
    loc = self.param('loc', nn.initializers.zeros, shape)
    gain = self.param('gain', nn.initializers.ones, shape)
    x = gain[:, 0] * (x.astype(jnp.float32) + loc[:, 0])
    return x.astype(self.dtype)


def _around_one(key, shape):
  return 1 + WEIGHT_STD * jax.random.normal(key, shape)
