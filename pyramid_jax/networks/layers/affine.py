"""Convolutions, linear layers and tables, with their initialisers.

The reference implementations leave almost every convolution and linear layer
at PyTorch's default: kernel and bias uniform in +-1/sqrt(fan_in) (torch:
nn/modules/conv.py, `reset_parameters`). Kernels have the axes (..., in, out),
the axes in front being the receptive field.
"""

import functools
import math
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from pyramid_jax.networks.layers import parameters


_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_FEW_PIXELS = 4
Padding = tuple[tuple[int, int], tuple[int, int]]

# U(-b, b) with b = sqrt(3 * scale / fan_in), scale = 1/3.
torch_kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')

# Fields of a `Linear` or `Conv` that starts as zero.
ZEROS: dict[str, Any] = {
  'kernel_init': nn.initializers.zeros,
  'bias_init': nn.initializers.zeros,
}


def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
  """Returns an initialiser of U(-bound, bound)."""
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
    key, shape, dtype, -bound, bound
  )


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
  """Returns PyTorch's default bias initialiser, U(+-1/sqrt(fan_in))."""
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


class Layer(nn.Module, kw_only=True):
  """What convolutions and linear layers have in common: float32 parameters."""

  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = torch_kernel
  bias_init: nn.initializers.Initializer | None = None  # None: `torch_bias`

  def weights(
    self, shape: tuple[int, ...]
  ) -> tuple[jax.Array, jax.Array | None]:
    """Returns the kernel of a shape (..., in, out), and the bias (out,)."""
    kernel = parameters.get(self, 'kernel', self.kernel_init, shape).astype(
      self.dtype
    )
    if not self.use_bias:
      return kernel, None
    bias_init = self.bias_init or torch_bias(math.prod(shape[:-1]))
    bias = parameters.get(self, 'bias', bias_init, shape[-1:])
    return kernel, bias.astype(self.dtype)


class Linear(Layer):
  """Multiplies the last axis by an (in, out) kernel."""

  features: int  # size of the last axis of the result

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (..., C) to (..., features)."""
    kernel, bias = self.weights((x.shape[-1], self.features))
    y = x.astype(self.dtype) @ kernel
    return y if bias is None else y + bias


class Conv(Layer):
  """Convolves (B, H, W, C) images by an HWIO kernel, padding as PyTorch."""

  features: int  # output channels
  kernel_size: int = 3  # side of the square kernel
  strides: int = 1  # step in both directions
  # Zeros on all four sides, or ((top, bottom), (left, right)); None for
  # kernel_size // 2.
  padding: int | Padding | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H', W', features)."""
    k = self.kernel_size
    padding = k // 2 if self.padding is None else self.padding
    if isinstance(padding, int):
      padding = ((padding, padding), (padding, padding))
    kernel, bias = self.weights((k, k, x.shape[-1], self.features))
    y = convolve(x.astype(self.dtype), kernel, self.strides, padding)
    return y if bias is None else y + bias


def embed(
  rows: int, features: int, deviation: float, name: str | None = None
) -> nn.Embed:
  """Returns a table of learned rows, N(0, deviation^2) at first."""
  normal = nn.initializers.normal(deviation)
  return nn.Embed(rows, features, embedding_init=normal, name=name)


def convolve(
  x: jax.Array, kernel: jax.Array, strides: int, padding: Padding
) -> jax.Array:
  """Convolves (B, H, W, C) with an HWIO kernel.

  On a CPU, maps of a few pixels become one matrix product of patches: XLA's
  convolution is six times slower there.
  """
  _, height, width, channels = x.shape
  k = kernel.shape[0]
  few = height * width <= _FEW_PIXELS and k > 1 and strides == 1
  if jax.default_backend() != 'cpu':
    return _plain(x, kernel, strides, padding)
  if not few:
    return _quick_to_differentiate(x, kernel, strides, padding)
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  height, width = x.shape[1] - k + 1, x.shape[2] - k + 1
  patches = jnp.concatenate(
    [x[:, i : i + height, j : j + width] for i in range(k) for j in range(k)],
    axis=-1,
  )
  return patches @ kernel.reshape(k * k * channels, -1)


def _plain(
  x: jax.Array, kernel: jax.Array, strides: int, padding: Padding
) -> jax.Array:
  return lax.conv_general_dilated(
    x, kernel, (strides, strides), padding, dimension_numbers=_LAYOUT
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _quick_to_differentiate(
  x: jax.Array, kernel: jax.Array, strides: int, padding: Padding
) -> jax.Array:
  """Convolves with a gradient that XLA's CPU computes quickly.

  The gradient by x is a convolution with the flipped kernel, its channels
  exchanged. Within a loop XLA fuses that exchange into the convolution, for
  which it has no fast code; a barrier prevents it. There is no forward mode.
  """
  return _plain(x, kernel, strides, padding)


def _forward(x, kernel, strides, padding):
  return _plain(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, residuals, dy):
  x, kernel = residuals
  _, pull = jax.vjp(lambda k: _plain(x, k, strides, padding), kernel)
  k = kernel.shape[0]
  flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  widths = []
  for axis, (before, _) in zip((1, 2), padding, strict=True):
    length = (dy.shape[axis] - 1) * strides + 1
    first = k - 1 - before
    widths.append((first, x.shape[axis] + k - 1 - length - first))
  dx = lax.conv_general_dilated(
    dy,
    lax.optimization_barrier(flipped),
    (1, 1),
    widths,
    lhs_dilation=(strides, strides),
    dimension_numbers=_LAYOUT,
  )
  return dx, pull(dy)[0]


_quick_to_differentiate.defvjp(_forward, _backward)
