"""Convolutional blocks of the U-Nets, and their attention without context."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import linear
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import resampling


def normalise(
  x: jax.Array,
  cond: jax.Array | None,
  *,
  gated: bool,
  eps: float,
  dtype: jnp.dtype,
  name: str,
  gate_width: int = 128,
) -> jax.Array:
  """Applies a group norm named `name`, gated by `cond` if `gated`.

  To be called inside a compact method, whose module owns the norm.

  Args:
    x: (B, H, W, C).
    cond: (B, H', W', D) or None, which leaves a gated norm ungated.
    gated: whether the norm has a gate; else `cond` is not read.
    eps: added to the variance.
    dtype: of the result.
    name: of the norm in the calling module.
    gate_width: hidden channels of the gate.
  """
  if gated:
    return norms.GatedNorm(eps, hidden=gate_width, dtype=dtype, name=name)(
      x, cond
    )
  return norms.GroupNorm(eps, dtype=dtype, name=name)(x)


def upsample(x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
  """Repeats pixels of (B, H, W, C) up to (2 H, 2 W), or up to `size`."""
  if size is None or size == (2 * x.shape[1], 2 * x.shape[2]):
    return resampling.enlarge(x)
  return resampling.nearest(x, size)


def downsample(x: jax.Array) -> jax.Array:
  """Averages 2 x 2 pixels of (B, H, W, C).

  Raises:
    ValueError: a side is a single pixel.
  """
  if min(x.shape[1:3]) < 2:
    raise ValueError(
      f'a grid of {x.shape[1]} x {x.shape[2]} cannot be halved by pooling; '
      'use a larger grid or fewer levels.'
    )
  return resampling.average_pool(x)


class Downsample(nn.Module):
  """Halves a map, by a strided convolution or by averaging.

  CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py.

  Attributes:
    use_conv: whether a convolution of stride 2 does it, padded by one on all
      sides (the autoencoders pad two sides only).
    dtype: of the activations.
  """

  use_conv: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), C)."""
    if not self.use_conv:
      return downsample(x)
    return convolution.Conv(
      x.shape[-1], strides=2, dtype=self.dtype, name='op'
    )(x)


class Upsample(nn.Module):
  """Doubles a map by repeating pixels, then perhaps convolves it.

  Attributes:
    use_conv: whether a convolution follows.
    dtype: of the activations.
  """

  use_conv: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, size: tuple[int, int] | None = None
  ) -> jax.Array:
    """Maps (B, H, W, C) to (B, 2 H, 2 W, C), or to (B, *size, C)."""
    x = upsample(x, size)
    if not self.use_conv:
      return x
    return convolution.Conv(x.shape[-1], dtype=self.dtype, name='conv')(x)


class ResBlock(nn.Module):
  """Residual block of two convolutions, told the noise level in between.

  CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py, and
  with `gated` davidhalladay/Frido: frido/modules/diffusionmodules/pyunet.py.

  Attributes:
    out_channels: of the result.
    dropout: rate in front of the last convolution when training.
    use_scale_shift_norm: whether the embedding scales and shifts the second
      norm's result instead of being added in front of it.
    gated: whether both norms are gated by the coarser scales.
    resample: 'up' or 'down' resizes the map between the first norm and the
      first convolution; None keeps its size.
    dtype: of the activations.
    gate_width: hidden channels of the gates.
  """

  out_channels: int
  dropout: float = 0.0
  use_scale_shift_norm: bool = False
  gated: bool = False
  resample: str | None = None
  dtype: jnp.dtype = jnp.float32
  gate_width: int = 128

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    emb: jax.Array,
    cond: jax.Array | None = None,
    size: tuple[int, int] | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Maps (B, H, W, C) to (B, H', W', out_channels).

    Args:
      x: (B, H, W, C).
      emb: (B, E) or (1, E), the embedding after its SiLU (all blocks share
        that one).
      cond: (B, H'', W'', D) features of the coarser scales, or None.
      size: of the result if `resample` is 'up'; None doubles.
      train: whether dropout is active, which needs a 'dropout' key.
    """
    h = nn.silu(self._norm(x, cond, 'in_layers_0'))
    if self.resample == 'up':
      h, x = upsample(h, size), upsample(x, size)
    elif self.resample == 'down':
      h, x = downsample(h), downsample(x)
    h = self._conv(h, 'in_layers_2')

    widths = 2 if self.use_scale_shift_norm else 1
    emb = linear.Linear(
      widths * self.out_channels, dtype=self.dtype, name='emb_layers_1'
    )(emb)[:, None, None]
    if self.use_scale_shift_norm:
      scale, shift = jnp.split(emb, 2, axis=-1)
      h = self._norm(h, cond, 'out_layers_0') * (1 + scale) + shift
    else:
      h = self._norm(h + emb, cond, 'out_layers_0')
    h = nn.silu(h)
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = self._conv(h, 'out_layers_3', zero=True)
    if x.shape[-1] != self.out_channels:
      x = linear.Linear(
        self.out_channels, dtype=self.dtype, name='skip_connection'
      )(x)
    return x + h

  def _norm(self, x: jax.Array, cond: jax.Array | None, name: str) -> jax.Array:
    return normalise(
      x,
      cond,
      gated=self.gated,
      eps=1e-5,
      dtype=self.dtype,
      name=name,
      gate_width=self.gate_width,
    )

  def _conv(self, x: jax.Array, name: str, zero: bool = False) -> jax.Array:
    if not zero:
      return convolution.Conv(self.out_channels, dtype=self.dtype, name=name)(x)
    return convolution.Conv(
      self.out_channels,
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.zeros,
      name=name,
    )(x)


class AttentionBlock(nn.Module):
  """Self-attention over the pixels of a map, as a residual.

  CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py.

  Attributes:
    heads: must divide the channels.
    use_new_attention_order: whether queries, keys and values of all heads lie
      together in the projection's channels, instead of those of each head.
    gated: whether the norm is gated by the coarser scales.
    dtype: of the activations.
    gate_width: hidden channels of the gate.
    attention: which kernel, see `attention.dot_product_attention`.
  """

  heads: int
  use_new_attention_order: bool = False
  gated: bool = False
  dtype: jnp.dtype = jnp.float32
  gate_width: int = 128
  attention: str = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array, cond: jax.Array | None = None) -> jax.Array:
    """Maps (B, H, W, C) to the same shape.

    Args:
      x: (B, H, W, C).
      cond: (B, H', W', D) features of the coarser scales, or None.
    """
    b, height, width, channels = x.shape
    h = normalise(
      x,
      cond,
      gated=self.gated,
      eps=1e-5,
      dtype=self.dtype,
      name='norm',
      gate_width=self.gate_width,
    ).reshape(b, height * width, channels)
    qkv = linear.Linear(3 * channels, dtype=self.dtype, name='qkv')(h)
    if self.use_new_attention_order:
      q, k, v = jnp.split(qkv, 3, axis=-1)
      q, k, v = (y.reshape(*y.shape[:2], self.heads, -1) for y in (q, k, v))
    else:
      qkv = qkv.reshape(b, height * width, self.heads, -1)
      q, k, v = jnp.split(qkv, 3, axis=-1)
    h = attention.dot_product_attention(
      q, k, v, implementation=self.attention
    ).reshape(h.shape)
    h = linear.Linear(
      channels,
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.zeros,
      name='attn_out',
    )(h)
    return x + h.reshape(x.shape)
