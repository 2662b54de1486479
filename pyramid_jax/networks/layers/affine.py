"""Convolutions, linear layers and tables, with their initialisers.

The reference implementations leave almost every convolution and linear layer
at PyTorch's default: kernel and bias uniform in +-1/sqrt(fan_in) (torch:
nn/modules/conv.py, `reset_parameters`). Kernels have the axes (..., in, out),
the axes in front being the receptive field.
"""

import math
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from pyramid_jax import placement
from pyramid_jax.networks.layers import parameters
from pyramid_jax.networks.layers import remat


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
  # Whether the first axis of what comes in is that of the batch.
  has_rows: bool = True

  def kernel(self, shape: tuple[int, ...]) -> jax.Array:
    """Returns the float32 kernel of a shape (..., in, out)."""
    return parameters.get(self, 'kernel', self.kernel_init, shape, self.dtype)

  def finished(
    self, y: jax.Array, kernel: jax.Array, groups: tuple[int, ...] = ()
  ) -> jax.Array:
    """Adds the bias to the products (B, ..., *groups, out) with a kernel."""
    if self.use_bias:
      shape = kernel.shape
      bias_init = self.bias_init or torch_bias(math.prod(shape[:-1]))
      bias = parameters.get(self, 'bias', bias_init, shape[-1:], self.dtype)
      y = _shifted(y, bias.reshape(*groups, -1))
    return remat.product(placement.rows(y) if self.has_rows else y)


class Linear(Layer):
  """Multiplies the last axis by an (in, out) kernel."""

  features: int  # columns of the kernel

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (..., C) to (..., features)."""
    kernel = self.kernel((x.shape[-1], self.features))
    y = _product(x.astype(self.dtype), kernel)
    return self.finished(y, kernel)


class LinearParts(Layer):
  """A `Linear` whose features are equal ranges, each of which `tensor` splits.

  So no range of the kernel's columns has a part of all (`sharding.RULES`).
  """

  features: int  # columns of the kernel
  parts: int  # the number of ranges

  @nn.compact
  def __call__(self, x: jax.Array) -> list[jax.Array]:
    """Maps (..., C) to `parts` arrays (..., features / parts)."""
    kernel, x = self.kernel((x.shape[-1], self.features)), x.astype(self.dtype)
    if placement.sizes().get(placement.TENSOR, 1) == 1:
      y = self.finished(_product(x, kernel), kernel)
      return jnp.split(y, self.parts, axis=-1)
    y = _product(x, kernel.reshape(len(kernel), self.parts, -1))
    y = self.finished(y, kernel, (self.parts,))
    return [y[..., i, :] for i in range(self.parts)]


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
    kernel = self.kernel((k, k, x.shape[-1], self.features))
    y = convolve(x.astype(self.dtype), kernel, self.strides, padding)
    return self.finished(y, kernel)


class Embed(nn.Embed):
  """A table of learned rows, whose columns devices may share."""

  # Whether the first axis of the ids is that of the batch.
  has_rows: bool = True

  def __call__(self, ids: jax.Array) -> jax.Array:
    """Maps ids (B, ...) to (B, ..., features)."""
    if self.has_rows:
      return placement.looked_up(self.embedding, ids)
    return jnp.take(self.embedding, ids, axis=0)


def embed(
  rows: int,
  features: int,
  deviation: float,
  name: str | None = None,
  has_rows: bool = True,
) -> Embed:
  """Returns a table of learned rows, N(0, deviation^2) at first."""
  return Embed(
    rows,
    features,
    embedding_init=nn.initializers.normal(deviation),
    has_rows=has_rows,
    name=name,
  )


# Products of activations with parameters. Activations may have a short type,
# in which parameters are rounded; the gradient of a parameter is a sum over the
# batch, over all devices that share it, and keeps its float32 throughout. What
# goes forward has no such rule around it, so that `jax.checkpoint` finds the
# products that it keeps.


def _multiplied(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Multiplies (..., C) by a (C, D) or (C, G, D) kernel in the type of x."""
  return jnp.tensordot(x, _in_use(kernel, x.dtype), 1)


def _product_forward(x, kernel):
  return _multiplied(x, kernel), (x, kernel)


def _product_backward(residuals, dy):
  x, kernel = residuals
  axes = 'd' if kernel.ndim == 2 else 'gd'
  used = _in_use(kernel, x.dtype)
  dx = jnp.einsum(f'...{axes},c{axes}->...c', dy, used)
  wide = kernel.dtype
  dk = jnp.einsum(
    f'...c,...{axes}->c{axes}', x, dy, preferred_element_type=wide
  )
  return dx, placement.groups(dk)


def _in_use(kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
  return placement.groups(kernel.astype(dtype))


_product = jax.custom_vjp(_multiplied)
_product.defvjp(_product_forward, _product_backward)


def _added(y: jax.Array, bias: jax.Array) -> jax.Array:
  """Adds a (C,) or (G, C) bias to (..., C) or (..., G, C) in the type of y."""
  return y + bias.astype(y.dtype)


def _shifted_forward(y, bias):
  return _added(y, bias), bias


def _shifted_backward(bias, dy):
  return dy, dy.astype(bias.dtype).sum(tuple(range(dy.ndim - bias.ndim)))


_shifted = jax.custom_vjp(_added)
_shifted.defvjp(_shifted_forward, _shifted_backward)


def convolve(
  x: jax.Array, kernel: jax.Array, strides: int, padding: Padding
) -> jax.Array:
  """Convolves (B, H, W, C) with an HWIO kernel, in the element type of x.

  On a CPU, maps of a few pixels become one matrix product of patches: XLA's
  convolution is six times slower there.
  """
  _, height, width, channels = x.shape
  k = kernel.shape[0]
  few = height * width <= _FEW_PIXELS and k > 1 and strides == 1
  if placement.platform() != 'cpu' or not few:
    return _convolution(x, kernel, strides, padding)
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  height, width = x.shape[1] - k + 1, x.shape[2] - k + 1
  patches = jnp.concatenate(
    [x[:, i : i + height, j : j + width] for i in range(k) for j in range(k)],
    axis=-1,
  )
  return _product(patches, kernel.reshape(k * k * channels, -1))


def _convolved(
  x: jax.Array, kernel: jax.Array, strides: int, padding: Padding
) -> jax.Array:
  return lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    (strides, strides),
    padding,
    dimension_numbers=_LAYOUT,
  )


def _convolution_forward(x, kernel, strides, padding):
  return _convolved(x, kernel, strides, padding), (x, kernel)


def _convolution_backward(strides, padding, residuals, dy):
  x, kernel = residuals
  k = kernel.shape[0]
  around_input, around_gradient = [], []
  for axis, (before, _) in zip((1, 2), padding, strict=True):
    length = (dy.shape[axis] - 1) * strides + 1
    first = k - 1 - before
    around_gradient.append((first, x.shape[axis] + k - 1 - length - first))
    around_input.append((before, k - 1 + length - x.shape[axis] - before))
  # A convolution with the flipped kernel, its channels exchanged. Within a loop
  # XLA's CPU fuses the exchange into the convolution, for which it has no fast
  # code; a barrier prevents it.
  flipped = jnp.flip(kernel.astype(x.dtype), (0, 1)).swapaxes(2, 3)
  if placement.platform() == 'cpu':
    flipped = lax.optimization_barrier(flipped)
  dx = lax.conv_general_dilated(
    dy,
    flipped,
    (1, 1),
    around_gradient,
    lhs_dilation=(strides, strides),
    dimension_numbers=_LAYOUT,
  )
  # One of the input with the gradient, their channels in the place of rows.
  dk = lax.conv_general_dilated(
    x,
    dy,
    (1, 1),
    around_input,
    rhs_dilation=(strides, strides),
    dimension_numbers=('CHWN', 'IHWO', 'HWNC'),
    preferred_element_type=kernel.dtype,
  )
  return dx, dk


_convolution = jax.custom_vjp(_convolved, nondiff_argnums=(2, 3))
_convolution.defvjp(_convolution_forward, _convolution_backward)
