"""The patch discriminator of the adversarial first stages."""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from pyramid_jax.networks.layers import convolution


EPS = 1e-5
MOMENTUM = 0.1  # weight of the newest batch in the running statistics
WEIGHT_STD = 0.02
LEAK = 0.2

STATISTICS = 'batch_stats'


class PatchDiscriminator(nn.Module):
  """Judges overlapping patches of an image (arXiv:1611.07004).

  Matches CompVis/taming-transformers, taming/modules/discriminator/model.py,
  NLayerDiscriminator, names included. 2 layers see patches of 34 pixels, 3
  layers of 70. Under `jit` the statistics are those of the global batch.

  Attributes:
    ndf: channels after the first convolution.
    n_layers: number of halvings.
    use_actnorm: learned scale and shift instead of batch normalisation.
    input_nc: channels of the image.
    dtype: of the activations; norms and logits are float32.
  """

  ndf: int = 64
  n_layers: int = 3
  use_actnorm: bool = False
  input_nc: int = 3
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
    """Returns the logits of the patches; high means real.

    Args:
      x: (B, H, W, input_nc) in [-1, 1].
      train: normalise with the statistics of this batch, and renew the
        running ones where the collection 'batch_stats' is mutable.

    Returns:
      (B, h, w, 1) float32, for 256 pixels 62 x 62 with 2 layers and 30 x 30
      with 3.

    Raises:
      ValueError: x does not have input_nc channels.
    """
    if x.ndim != 4 or x.shape[-1] != self.input_nc:
      raise ValueError(
        f'the image must be (B, H, W, {self.input_nc}), got {x.shape}.'
      )
    # Names count the layers of the reference, activations included.
    x = nn.leaky_relu(self._conv('main_0', self.ndf, 2, True)(x), LEAK)
    for n in range(1, self.n_layers + 1):
      index = 3 * n - 1
      features = self.ndf * min(2**n, 8)
      strides = 2 if n < self.n_layers else 1
      x = self._conv(
        f'main_{index}', features, strides, use_bias=self.use_actnorm
      )(x)
      name = f'main_{index + 1}'
      if self.use_actnorm:
        x = ActNorm(self.dtype, name=name)(x)
      else:
        x = BatchNorm(self.dtype, name=name)(x, train)
      x = nn.leaky_relu(x, LEAK)
    last = self._conv(f'main_{3 * self.n_layers + 2}', 1, 1, True)
    return last(x).astype(jnp.float32)

  def _conv(
    self, name: str, features: int, strides: int, use_bias: bool
  ) -> convolution.Conv:
    return convolution.Conv(
      features,
      kernel_size=4,
      strides=strides,
      padding=1,
      use_bias=use_bias,
      dtype=self.dtype,
      kernel_init=nn.initializers.normal(WEIGHT_STD),
      name=name,
    )


class BatchNorm(nn.Module):
  """Batch normalisation with PyTorch's running statistics.

  The running variance is renewed with the unbiased one, the batch itself is
  normalised with the biased one (torch.nn.BatchNorm2d, momentum 0.1).

  Attributes:
    dtype: of the result.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalises (B, H, W, C) in float32."""
    features = x.shape[-1:]
    scale = self.param('scale', _around_one, features)
    bias = self.param('bias', nn.initializers.zeros, features)
    running_mean = self.variable(STATISTICS, 'mean', jnp.zeros, features)
    running_var = self.variable(STATISTICS, 'var', jnp.ones, features)

    x = x.astype(jnp.float32)
    if train:
      mean = x.mean((0, 1, 2))
      var = ((x - mean) ** 2).mean((0, 1, 2))
    else:
      mean, var = running_mean.value, running_var.value
    renew = self.is_mutable_collection(STATISTICS)
    if train and renew and not self.is_initializing():
      count = x.size // x.shape[-1]
      unbiased = var * (count / max(count - 1, 1))
      # No `+=`: it would write into the caller's arrays if they are NumPy's.
      old_mean, old_var = running_mean.value, running_var.value
      running_mean.value = old_mean + MOMENTUM * (mean - old_mean)
      running_var.value = old_var + MOMENTUM * (unbiased - old_var)
    x = (x - mean) * (lax.rsqrt(var + EPS) * scale) + bias
    return x.astype(self.dtype)


class ActNorm(nn.Module):
  """Learned shift and scale of every channel (arXiv:1807.03039).

  Starts as the identity. The reference derives its start from the first
  batch of training instead.

  Attributes:
    dtype: of the result.
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
