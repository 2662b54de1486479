"""Linear layer with PyTorch's initialisation."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import init


class Linear(nn.Module):
  """Multiplies the last axis by an (in, out) kernel; float32 parameters."""

  features: int  # size of the last axis of the result
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = init.torch_kernel
  # Initialiser of the bias, None for PyTorch's default.
  bias_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (..., C) to (..., features)."""
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    y = x.astype(self.dtype) @ kernel.astype(self.dtype)
    if self.use_bias:
      bias_init = self.bias_init or init.torch_bias(x.shape[-1])
      bias = self.param('bias', bias_init, (self.features,))
      y = y + bias.astype(self.dtype)
    return y
