"""Two-dimensional convolution with PyTorch's padding and initialisation."""

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from pyramid_jax.networks.layers import init


_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_FEW_PIXELS = 4
_Padding = tuple[tuple[int, int], tuple[int, int]]


class Conv(nn.Module):
  """Convolves (B, H, W, C) images; kernel HWIO, float32 parameters."""

  features: int  # output channels
  kernel_size: int = 3  # side of the square kernel
  strides: int = 1  # step in both directions
  # Zeros around the image, an int for all four sides or ((top, bottom), (left,
  # right)); None for kernel_size // 2.
  padding: int | _Padding | None = None
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = init.torch_kernel
  # Initialiser of the bias, None for PyTorch's default.
  bias_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H', W', features)."""
    k = self.kernel_size
    shape = (k, k, x.shape[-1], self.features)
    padding = k // 2 if self.padding is None else self.padding
    if isinstance(padding, int):
      padding = ((padding, padding), (padding, padding))

    kernel = self.param('kernel', self.kernel_init, shape)
    y = convolve(
      x.astype(self.dtype), kernel.astype(self.dtype), self.strides, padding
    )
    if self.use_bias:
      bias_init = self.bias_init or init.torch_bias(k * k * x.shape[-1])
      bias = self.param('bias', bias_init, (self.features,))
      y = y + bias.astype(self.dtype)
    return y


def convolve(
  x: jax.Array, kernel: jax.Array, strides: int, padding: _Padding
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
  x: jax.Array, kernel: jax.Array, strides: int, padding: _Padding
) -> jax.Array:
  return lax.conv_general_dilated(
    x, kernel, (strides, strides), padding, dimension_numbers=_LAYOUT
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _quick_to_differentiate(
  x: jax.Array, kernel: jax.Array, strides: int, padding: _Padding
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
