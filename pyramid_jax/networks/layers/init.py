"""Parameter initialisers that the reference models rely on.

The reference implementations leave almost every convolution and linear layer
at PyTorch's default: kernel and bias uniform in +-1/sqrt(fan_in), which is
what kaiming_uniform with a = sqrt(5) amounts to (torch: nn/modules/conv.py,
`reset_parameters`).
"""

from flax import linen as nn
import jax
import jax.numpy as jnp


# For kernels whose last two axes are (in, out), any axes in front being the
# receptive field: U(-b, b) with b = sqrt(3 * scale / fan_in), scale = 1/3.
torch_kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
  """Returns an initialiser of U(-bound, bound)."""

  def initialise(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return initialise


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
  """Returns PyTorch's default bias initialiser, U(+-1/sqrt(fan_in)).

  Args:
    fan_in: input features times the receptive field of the kernel beside it.
  """
  return symmetric_uniform(fan_in**-0.5)


def xavier(gain: float = 1.0) -> nn.initializers.Initializer:
  """Returns Xavier's uniform initialiser times `gain`.

  For the same kernels as `torch_kernel`: U(-b, b) with
  b = gain * sqrt(6 / (fan_in + fan_out)); a gain of 0 gives zeros.
  """
  return nn.initializers.variance_scaling(gain**2, 'fan_avg', 'uniform')
