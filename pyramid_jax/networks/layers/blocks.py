"""Convolutional blocks of the U-Nets, and their attention without context."""

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax import placement
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import resampling


def upsample(x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
  """Repeats pixels of (B, H, W, C) up to (2 H, 2 W), or up to `size`."""
  if size is None or size == (2 * x.shape[1], 2 * x.shape[2]):
    return resampling.enlarge(x)
  return resampling.nearest(x, size)


def downsample(x: jax.Array) -> jax.Array:
  """Averages 2 x 2 pixels of (B, H, W, C), both sides 2 or more."""
  if min(x.shape[1:3]) < 2:
    raise ValueError(
      f'a grid of {x.shape[1]} x {x.shape[2]} cannot be halved by pooling; '
      'use a larger grid or fewer levels.'
    )
  return resampling.average_pool(x)


class Downsample(nn.Module):
  """Halves a map, by a strided convolution or by averaging.

  CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py.
  """

  use_conv: bool = True  # whether by a convolution
  dtype: jnp.dtype = jnp.float32
  padding: affine.Padding = ((1, 1), (1, 1))  # Pads the convolution.
  conv_name: str = 'op'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H / 2, W / 2, C)."""
    if not self.use_conv:
      return downsample(x)
    return affine.Conv(
      x.shape[-1],
      strides=2,
      padding=self.padding,
      dtype=self.dtype,
      name=self.conv_name,
    )(x)


class Upsample(nn.Module):
  """Doubles a map by repeating pixels."""

  use_conv: bool = True  # whether a convolution follows
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, size: tuple[int, int] | None = None
  ) -> jax.Array:
    """Maps (B, H, W, C) to (B, 2 H, 2 W, C), or to (B, *size, C)."""
    x = upsample(x, size)
    if not self.use_conv:
      return x
    return affine.Conv(x.shape[-1], dtype=self.dtype, name='conv')(x)


class ResBlock(norms.MaybeGated):
  """Residual block of two convolutions that adds the embedding in between.

  CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py, and
  with `gated` davidhalladay/Frido: frido/modules/diffusionmodules/pyunet.py.
  """

  out_channels: int  # The channels of the result.
  dropout: float = 0.0  # rate in front of the last convolution
  # Whether the embedding scales and shifts the second norm's result instead of
  # being added in front of it.
  use_scale_shift_norm: bool = False
  # 'up' or 'down' resizes the map between the first norm and the first
  # convolution; None keeps its size.
  resample: str | None = None

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
      emb: (B, E) or (1, E), the embedding after its SiLU.
      cond: (B, H'', W'', D) features of the coarser scales, or None.
      size: of the result if `resample` is 'up'; None doubles.
    """
    features, dtype = self.out_channels, self.dtype
    h = nn.silu(self.norm('in_layers_0', x, cond))
    if self.resample == 'up':
      h, x = upsample(h, size), upsample(x, size)
    elif self.resample == 'down':
      h, x = downsample(h), downsample(x)
    h = affine.Conv(features, dtype=dtype, name='in_layers_2')(h)
    h = placement.split(h, -1, 'channels')

    widths = 2 if self.use_scale_shift_norm else 1
    project = affine.Linear(widths * features, dtype=dtype, name='emb_layers_1')
    emb = project(emb)[:, None, None]
    if self.use_scale_shift_norm:
      scale, shift = jnp.split(emb, 2, axis=-1)
      h = self.norm('out_layers_0', h, cond) * (1 + scale) + shift
    else:
      h = self.norm('out_layers_0', h + emb, cond)
    h = nn.silu(h)
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = affine.Conv(features, dtype=dtype, name='out_layers_3', **affine.ZEROS)(
      h
    )
    if x.shape[-1] != features:
      x = affine.Linear(features, dtype=dtype, name='skip_connection')(x)
    return x + h


class AttentionBlock(norms.MaybeGated):
  """Self-attention over the pixels of a map, as a residual.

  CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py.
  """

  heads: int  # must divide the channels
  # Whether queries of all heads lie together in the projection's channels,
  # then keys, then values; else those of each head.
  use_new_attention_order: bool = False
  attention: str = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array, cond: jax.Array | None = None) -> jax.Array:
    """Maps (B, H, W, C) to the same shape, gated by cond (B, H', W', D)."""
    _, height, _, channels = x.shape
    h = rearrange(self.norm('norm', x, cond), 'b h w c -> b (h w) c')
    heads = self.heads
    if self.use_new_attention_order:
      three = affine.LinearParts(3 * channels, 3, dtype=self.dtype, name='qkv')
      qkv = [rearrange(x, 'b n (h d) -> b n h d', h=heads) for x in three(h)]
    else:
      one = affine.Linear(3 * channels, dtype=self.dtype, name='qkv')
      order = 'b n (h k d) -> k b n h d'
      qkv = list(rearrange(one(h), order, k=3, h=heads))
    q, k, v = (placement.split(x, 2, 'heads') for x in qkv)
    h = attention.dot_product_attention(q, k, v, implementation=self.attention)
    h = rearrange(h, 'b (y x) h d -> b y x (h d)', y=height)
    out = affine.Linear(
      channels, dtype=self.dtype, name='attn_out', **affine.ZEROS
    )
    return x + out(h)
