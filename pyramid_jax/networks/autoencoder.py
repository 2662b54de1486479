"""Convolutional encoders and decoders of the first stages, and their protocol.

The blocks shared by every autoencoder of this library: one scale or several,
Kullback-Leibler or vector quantised. Reference: CompVis/taming-transformers:
taming/modules/diffusionmodules/model.py, and the same file of
CompVis/latent-diffusion (`attn_type`, `tanh_out`). Submodules carry the
official names; index i of a list in the reference is the suffix _i here.
"""

from collections.abc import Sequence
from typing import Any

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import blocks as blocks_lib
from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import resampling


EPS = 1e-6  # of every group norm of the first stages

ATTN_TYPES = ('vanilla', 'linear', 'none')


class ResnetBlock(nn.Module):
  """Adds two normalised, activated 3x3 convolutions to its input."""

  # Output channels; a pointwise shortcut appears where they differ from the
  # input's.
  features: int
  # Rate, active only where a 'dropout' random stream is given.
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H, W, features)."""
    conv = lambda name, size=3: convolution.Conv(
      self.features, size, dtype=self.dtype, name=name
    )
    h = norms.GroupNorm(EPS, dtype=self.dtype, name='norm1')(x)
    h = conv('conv1')(nn.swish(h))
    h = norms.GroupNorm(EPS, dtype=self.dtype, name='norm2')(h)
    h = nn.swish(h)
    h = nn.Dropout(self.dropout, deterministic=not self.has_rng('dropout'))(h)
    h = conv('conv2')(h)
    if x.shape[-1] != self.features:
      x = conv('nin_shortcut', 1)(x)
    return x + h


class AttnBlock(nn.Module):
  """Adds single-headed self-attention over all positions to its input."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to the same shape."""
    _, height, _, c = x.shape
    pointwise = lambda name: convolution.Conv(c, 1, dtype=self.dtype, name=name)
    y = norms.GroupNorm(EPS, dtype=self.dtype, name='norm')(x)
    q, k, v = (
      rearrange(pointwise(name)(y), 'b h w c -> b (h w) 1 c') for name in 'qkv'
    )
    y = attention.dot_product_attention(q, k, v)
    y = rearrange(y, 'b (h w) 1 c -> b h w c', h=height)
    return x + pointwise('proj_out')(y)


class LinearAttnBlock(nn.Module):
  """Attention whose cost is linear in the positions, in place of its input.

  Neither a norm nor a residual: CompVis/latent-diffusion: ldm/modules/
  attention.py, LinearAttention with one head.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to the same shape."""
    _, height, _, c = x.shape
    to_qkv = convolution.Conv(
      3 * c, 1, use_bias=False, dtype=self.dtype, name='to_qkv'
    )
    q, k, v = jnp.split(rearrange(to_qkv(x), 'b h w c -> b (h w) c'), 3, -1)
    k = jax.nn.softmax(k.astype(jnp.float32), axis=1).astype(self.dtype)
    y = q @ jnp.einsum('bnd,bne->bde', k, v)
    y = rearrange(y, 'b (h w) c -> b h w c', h=height)
    return convolution.Conv(c, 1, dtype=self.dtype, name='to_out')(y)


class Downsample(nn.Module):
  """Halves height and width."""

  # Whether by a strided convolution that pads bottom and right only, else by
  # averages of 2 x 2 pixels.
  with_conv: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H // 2, W // 2, C)."""
    if not self.with_conv:
      return resampling.average_pool(x)
    padding = ((0, 1), (0, 1))
    return convolution.Conv(
      x.shape[-1], 3, 2, padding, dtype=self.dtype, name='conv'
    )(x)


class Blocks(nn.Module):
  """Residual blocks, each followed by attention where asked."""

  attn_type: str  # 'vanilla', 'linear', or 'none' for no attention
  dropout: float  # rate in the blocks
  dtype: jnp.dtype
  remat: bool

  def block(self, x: jax.Array, features: int, name: str) -> jax.Array:
    """Maps (B, H, W, C) to (B, H, W, features)."""
    module = nn.remat(ResnetBlock) if self.remat else ResnetBlock
    return module(features, self.dropout, self.dtype, name=name)(x)

  def attend(self, x: jax.Array, name: str) -> jax.Array:
    """Maps (B, H, W, C) to the same shape; nothing happens for 'none'."""
    if self.attn_type not in ATTN_TYPES:
      raise ValueError(
        f'attn_type is {self.attn_type!r}, allowed: {ATTN_TYPES}.'
      )
    if self.attn_type == 'none':
      return x
    module = AttnBlock if self.attn_type == 'vanilla' else LinearAttnBlock
    module = nn.remat(module) if self.remat else module
    return module(self.dtype, name=name)(x)


class Level(Blocks):
  """The blocks of one resolution."""

  features: int  # output channels
  blocks: int  # number of residual blocks
  resample: str | None  # 'down', 'up' or None: what follows the last block
  resamp_with_conv: bool  # whether that resampling has a convolution

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the output of the last block, before and after resampling."""
    for i in range(self.blocks):
      x = self.block(x, self.features, f'block_{i}')
      x = self.attend(x, f'attn_{i}')
    if self.resample is None:
      return x, x
    resample = {'down': Downsample, 'up': blocks_lib.Upsample}[self.resample]
    name = f'{self.resample}sample'
    return x, resample(self.resamp_with_conv, self.dtype, name=name)(x)


class Middle(Blocks):
  """Block, attention, block at the channels of the input."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to the same shape."""
    x = self.block(x, x.shape[-1], 'block_1')
    x = self.attend(x, 'attn_1')
    return self.block(x, x.shape[-1], 'block_2')


class Levels(nn.Module, kw_only=True):
  """What encoders and decoders have in common."""

  ch: int = 128  # channels that `ch_mult` multiplies
  # One factor a level, the level of the image first. There is a halving between
  # levels.
  ch_mult: tuple[int, ...]
  # Blocks a level of an encoder; a decoder has one more.
  num_res_blocks: int = 2
  # Nominal resolutions with attention. They count from `resolution`, whatever
  # the size of the image.
  attn_resolutions: tuple[int, ...] = ()
  resolution: int = 256  # nominal side of the image
  dropout: float = 0.0  # rate in the blocks
  # Whether changes of resolution have a convolution.
  resamp_with_conv: bool = True
  # 'vanilla', 'linear', or 'none' for no attention at all.
  attn_type: str = 'vanilla'
  # Of the activations; latents and images are float32.
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  def level(
    self, index: int, nominal: int, blocks: int, resample: str | None
  ) -> Level:
    """Returns the unnamed level `index` at nominal resolution `nominal`."""
    attends = nominal in self.attn_resolutions
    return Level(
      self.attn_type if attends else 'none',
      self.dropout,
      self.dtype,
      self.remat,
      self.ch * self.ch_mult[index],
      blocks,
      resample,
      self.resamp_with_conv,
    )

  def middle(self) -> Middle:
    """Returns the unnamed middle of the network."""
    return Middle(self.attn_type, self.dropout, self.dtype, self.remat)

  def down_levels(self) -> list[Level]:
    """Returns the unnamed levels of an encoder, that of the image first."""
    last = len(self.ch_mult) - 1
    return [
      self.level(
        i,
        self.resolution // 2**i,
        self.num_res_blocks,
        'down' if i < last else None,
      )
      for i in range(last + 1)
    ]

  def run_down(self, image: jax.Array) -> list[jax.Array]:
    """Maps an image to the activations at the end of each level of `down`."""
    factor = 2 ** (len(self.ch_mult) - 1)
    if image.ndim != 4 or image.shape[1] % factor or image.shape[2] % factor:
      raise ValueError(
        f'the image must be (B, H, W, C) with H and W multiples of {factor}, '
        f'got shape {image.shape}.'
      )
    x = self.conv_in(image)
    kept = []
    for level in self.down:
      last, x = level(x)
      kept.append(last)
    return kept


class Encoder(Levels, kw_only=True):
  """Maps an image to a map of moments or latents."""

  z_channels: int  # channels of a latent
  # Whether there is a second set of channels, for variances.
  double_z: bool = True

  def setup(self):
    self.conv_in = convolution.Conv(self.ch, dtype=self.dtype)
    self.down = self.down_levels()
    self.mid = self.middle()
    self.norm_out = norms.GroupNorm(EPS, dtype=self.dtype)
    self.conv_out = convolution.Conv(self.z_channels * (1 + self.double_z))

  def __call__(self, image: jax.Array) -> jax.Array:
    """Maps (B, H, W, 3) in [-1, 1] to (B, h, w, z_channels), float32.

    h = H / 2 ** (len(ch_mult) - 1), and twice the channels if double_z.
    """
    features = self.run_down(image)[-1]
    return self.conv_out(nn.swish(self.norm_out(self.mid(features))))


class Decoder(Levels, kw_only=True):
  """Maps latents to an image; its last convolution can be called apart.

  The convolution is float32: bfloat16 resolves no more than every second
  grey level near white.
  """

  out_ch: int = 3  # channels of the image
  tanh_out: bool = False  # whether a hyperbolic tangent closes the network

  def setup(self):
    last = len(self.ch_mult) - 1
    self.conv_in = convolution.Conv(
      self.ch * self.ch_mult[-1], dtype=self.dtype
    )
    self.mid = self.middle()
    # Doubled up from the smallest, as in the reference: this differs from the
    # encoder's halving where `resolution` is not divisible often enough.
    smallest = self.resolution // 2**last
    self.up = [
      self.level(
        i,
        smallest * 2 ** (last - i),
        self.num_res_blocks + 1,
        'up' if i else None,
      )
      for i in range(last + 1)
    ]
    self.norm_out = norms.GroupNorm(EPS, dtype=self.dtype)
    self.conv_out = convolution.Conv(self.out_ch)

  def __call__(self, z: jax.Array) -> jax.Array:
    """Maps (B, h, w, Z) to (B, H, W, out_ch), float32."""
    return self.last_conv(self.features(z))

  def features(self, z: jax.Array) -> jax.Array:
    """Maps (B, h, w, Z) to (B, H, W, ch * ch_mult[0]), the last activations."""
    x = self.mid(self.conv_in(z))
    for level in reversed(self.up):
      _, x = level(x)
    return nn.swish(self.norm_out(x))

  def last_conv(self, features: jax.Array) -> jax.Array:
    """Maps the result of `features` to (B, H, W, out_ch), float32."""
    image = self.conv_out(features)
    return jnp.tanh(image) if self.tanh_out else image


class FirstStage(nn.Module, kw_only=True):
  """What diffusion models, and the training of first stages, rely on.

  Latents are lists, coarse to fine, unscaled.
  """

  # Of the activations; latents and images are float32.
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  # Converter family of the weights, a key of `interop.parts.FAMILIES`.
  family = ''
  # Whether `encode` draws latents where it is given noise.
  is_stochastic = False

  @property
  def factor(self) -> int:
    """Pixels of a side of a cell of the finest latent."""
    raise NotImplementedError

  @property
  def coarsest_factor(self) -> int:
    """Number whose multiples the sides of an image must be, px."""
    return self.factor

  @property
  def latent_channels(self) -> tuple[int, ...]:
    """Channels of the latent of each scale."""
    raise NotImplementedError

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    """Entries of the codebook of each scale, () without codebooks."""
    return ()

  def encode(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> list[jax.Array]:
    """Returns the latents that a diffusion model learns, before quantisation.

    Args:
      image: (B, H, W, 3) in [-1, 1], sides multiples of `coarsest_factor`.
      noise: standard normal, of the latent's shape, with which the latent is
        drawn from the posterior where `is_stochastic`; None for its mean.

    Returns:
      One (B, h, w, channels) float32 a scale, each on its own grid.
    """
    raise NotImplementedError

  def decode(self, zs: Sequence[jax.Array], quantize: bool = True) -> jax.Array:
    """Maps latents to an image (B, H, W, 3) float32, about [-1, 1].

    Args:
      zs: one (B, h, w, channels) a scale, on its own grid or already on the
        grid of the finest.
      quantize: False where zs are entries of the codebooks already.

    Raises:
      ValueError: the number, channels or grids of zs do not fit.
    """
    return self.last_conv(self.decode_features(zs, quantize))

  def decode_features(
    self, zs: Sequence[jax.Array], quantize: bool = True
  ) -> jax.Array:
    """Returns what `decode` computes before its last convolution."""
    raise NotImplementedError

  def last_conv(self, features: jax.Array) -> jax.Array:
    """Maps the result of `decode_features` to the image (B, H, W, 3)."""
    return self.decoder.last_conv(features)

  def reconstructed(
    self, latents: list[jax.Array], entries: list[jax.Array], **extra: Any
  ) -> dict[str, Any]:
    """Returns `extra`, the latents and what is decoded from the entries.

    The keys are `reconstruction` (B, H, W, 3) float32, `features`, from which
    `last_conv` made it, and `latents`.
    """
    features = self.decode_features(entries, quantize=False)
    return {
      'reconstruction': self.last_conv(features),
      'features': features,
      'latents': latents,
      **extra,
    }
