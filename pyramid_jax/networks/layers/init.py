"""Parameter initialisers that the reference models rely on.

The reference implementations leave almost every convolution and linear layer
at PyTorch's default: kernel and bias uniform in +-1/sqrt(fan_in) (torch:
nn/modules/conv.py, `reset_parameters`). Kernels have the axes (..., in, out),
the axes in front being the receptive field.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp


# U(-b, b) with b = sqrt(3 * scale / fan_in), scale = 1/3.
torch_kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')

# Fields of a `Linear` or `Conv` that starts as zero.
ZEROS: dict[str, Any] = {
  'kernel_init': nn.initializers.zeros,
  'bias_init': nn.initializers.zeros,
}


def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
  """Returns an initialiser of U(-bound, bound)."""

  def initialise(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return initialise


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
  """Returns PyTorch's default bias initialiser, U(+-1/sqrt(fan_in)).

  Args:
    fan_in: input features times the receptive field of the layer's kernel.
  """
  return symmetric_uniform(fan_in**-0.5)


def zero_bias(kernel_init: nn.initializers.Initializer) -> dict[str, Any]:
  """Returns the fields of a `Linear` or `Conv` whose bias starts as zero."""
  return ZEROS | {'kernel_init': kernel_init}


def xavier(gain: float = 1.0) -> dict[str, Any]:
  """Returns the fields of a layer with Xavier's uniform kernel, zero bias.

  The kernel is U(-b, b), b = gain * sqrt(6 / (fan_in + fan_out)).
  """
  return zero_bias(
    nn.initializers.variance_scaling(gain**2, 'fan_avg', 'uniform')
  )
