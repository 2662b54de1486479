"""Convolutional encoders and decoders of the first stages, and their protocol.

CompVis/taming-transformers: taming/modules/diffusionmodules/model.py, and the
same file of CompVis/latent-diffusion (`attn_type`, `tanh_out`). Submodules
carry the official names; index i of a list in the reference is the suffix _i.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import Any

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax import placement
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import blocks as blocks_lib
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import options
from pyramid_jax.networks.layers import remat


EPS = 1e-6  # The epsilon of the group norms of first stages.


class ResnetBlock(nn.Module):
  """Adds two normalised, activated 3x3 convolutions to its input."""

  features: int  # output channels
  dropout: float = 0.0  # rate, active where a 'dropout' key is given
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H, W, features)."""
    conv = lambda name, size=3: affine.Conv(
      self.features, size, dtype=self.dtype, name=name
    )
    norm = functools.partial(norms.GroupNorm, EPS, dtype=self.dtype)
    h = conv('conv1')(nn.swish(norm(name='norm1')(x)))
    h = placement.split(h, -1, 'channels')
    h = nn.swish(norm(name='norm2')(h))
    h = nn.Dropout(self.dropout, deterministic=not self.has_rng('dropout'))(h)
    h = conv('conv2')(h)
    if x.shape[-1] != self.features:
      x = conv('nin_shortcut', 1)(x)
    return x + h


class AttnBlock(nn.Module):
  """Adds single-headed self-attention over all positions to its input."""

  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to the same shape."""
    _, height, _, c = x.shape
    pointwise = lambda name: affine.Conv(c, 1, dtype=self.dtype, name=name)
    y = norms.GroupNorm(EPS, dtype=self.dtype, name='norm')(x)
    q, k, v = (
      rearrange(pointwise(name)(y), 'b h w c -> b (h w) 1 c') for name in 'qkv'
    )
    y = attention.dot_product_attention(q, k, v, implementation=self.attention)
    y = rearrange(y, 'b (h w) 1 c -> b h w c', h=height)
    return x + pointwise('proj_out')(y)


class LinearAttnBlock(nn.Module):
  """Attention whose cost is linear in the positions, in place of its input.

  Neither a norm nor a residual: CompVis/latent-diffusion: ldm/modules/
  attention.py, LinearAttention with one head.
  """

  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'  # not read: it has two plain products

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to the same shape."""
    _, height, _, c = x.shape
    to_qkv = affine.Conv(
      3 * c, 1, use_bias=False, dtype=self.dtype, name='to_qkv'
    )
    q, k, v = jnp.split(rearrange(to_qkv(x), 'b h w c -> b (h w) c'), 3, -1)
    k = jax.nn.softmax(k.astype(jnp.float32), axis=1).astype(self.dtype)
    y = q @ jnp.einsum('bnd,bne->bde', k, v)
    y = rearrange(y, 'b (h w) c -> b h w c', h=height)
    return affine.Conv(c, 1, dtype=self.dtype, name='to_out')(y)


# The attentions of the first stages by the name of `attn_type`.
ATTENTIONS: Mapping[str, type[nn.Module] | None] = {
  'vanilla': AttnBlock,
  'linear': LinearAttnBlock,
  'none': None,
}


class Blocks(nn.Module):
  """Residual blocks, each followed by attention if requested."""

  attn_type: str  # a key of `ATTENTIONS`
  dropout: float  # rate in the blocks
  dtype: jnp.dtype
  remat: str
  attention: str

  def block(self, x: jax.Array, features: int, name: str) -> jax.Array:
    """Maps (B, H, W, C) to (B, H, W, features)."""
    module = remat.wrapped(ResnetBlock, self.remat)
    return module(features, self.dropout, self.dtype, name=name)(x)

  def attend(self, x: jax.Array, name: str) -> jax.Array:
    """Maps (B, H, W, C) to the same shape; nothing happens for 'none'."""
    options.check(self, attn_type=ATTENTIONS)
    module = ATTENTIONS[self.attn_type]
    if module is None:
      return x
    module = remat.wrapped(module, self.remat)
    return module(self.dtype, self.attention, name=name)(x)


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
    fields = (self.resamp_with_conv, self.dtype)
    if self.resample == 'up':
      return x, blocks_lib.Upsample(*fields, name='upsample')(x)
    if self.resample == 'down':
      halve = blocks_lib.Downsample(
        *fields, padding=((0, 1), (0, 1)), conv_name='conv', name='downsample'
      )
      return x, halve(x)
    return x, x


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
  # One factor a level, that of the image first; each level halves the sides.
  ch_mult: tuple[int, ...]
  num_res_blocks: int = 2  # In a level; a decoder has one more.
  # Nominal resolutions with attention. They count from `resolution`, whatever
  # the size of the image.
  attn_resolutions: tuple[int, ...] = ()
  resolution: int = 256  # nominal side of the image
  dropout: float = 0.0  # rate in the blocks
  resamp_with_conv: bool = True  # whether changes of resolution convolve
  attn_type: str = 'vanilla'  # a key of `ATTENTIONS`
  dtype: jnp.dtype = jnp.float32  # latents and images are float32
  remat: str = 'none'
  attention: str = 'auto'

  def level(
    self, index: int, nominal: int, blocks: int, resample: str | None
  ) -> Level:
    """Returns the unnamed level `index` at nominal resolution `nominal`."""
    return Level(
      self.attn_type if nominal in self.attn_resolutions else 'none',
      self.dropout,
      self.dtype,
      self.remat,
      self.attention,
      self.ch * self.ch_mult[index],
      blocks,
      resample,
      self.resamp_with_conv,
    )

  def middle(self) -> Middle:
    """Returns the unnamed middle of the network."""
    return Middle(
      self.attn_type, self.dropout, self.dtype, self.remat, self.attention
    )

  def down_levels(self) -> list[Level]:
    """Returns the unnamed levels of an encoder, that of the image first."""
    last, count = len(self.ch_mult) - 1, self.num_res_blocks
    side = lambda i: self.resolution // 2**i
    return [
      self.level(i, side(i), count, 'down' if i < last else None)
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
    kept, x = [], self.conv_in(image)
    for level in self.down:
      last, x = level(x)
      kept.append(last)
    return kept


class Encoder(Levels, kw_only=True):
  """Maps an image to a map of moments or latents."""

  z_channels: int  # channels of a latent
  double_z: bool = True  # whether there are as many channels for variances

  def setup(self):
    self.conv_in = affine.Conv(self.ch, dtype=self.dtype)
    self.down = self.down_levels()
    self.mid = self.middle()
    self.norm_out = norms.GroupNorm(EPS, dtype=self.dtype)
    self.conv_out = affine.Conv(self.z_channels * (1 + self.double_z))

  def __call__(self, image: jax.Array) -> jax.Array:
    """Maps (B, H, W, 3) in [-1, 1] to (B, h, w, (2) z_channels), float32."""
    features = self.run_down(image)[-1]
    return self.conv_out(nn.swish(self.norm_out(self.mid(features))))


class Decoder(Levels, kw_only=True):
  """Maps latents to an image; its last convolution can be called apart.

  That is float32: bfloat16 resolves every second grey level near white.
  """

  out_ch: int = 3  # channels of the image
  tanh_out: bool = False  # whether a hyperbolic tangent closes the network

  def setup(self):
    last, widest = len(self.ch_mult) - 1, self.ch * self.ch_mult[-1]
    self.conv_in = affine.Conv(widest, dtype=self.dtype)
    self.mid = self.middle()
    # Doubled up from the smallest, as in the reference: this differs from the
    # encoder's halving where `resolution` is not divisible often enough.
    side = lambda i: self.resolution // 2**last * 2 ** (last - i)
    self.up = [
      self.level(i, side(i), self.num_res_blocks + 1, 'up' if i else None)
      for i in range(last + 1)
    ]
    self.norm_out = norms.GroupNorm(EPS, dtype=self.dtype)
    self.conv_out = affine.Conv(self.out_ch)

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
  """A first stage, whose latents are lists, coarse to fine, unscaled."""

  ddconfig: Mapping[str, Any]  # fields of the `Decoder` at least
  dtype: jnp.dtype = jnp.float32  # latents and images are float32
  remat: str = 'none'
  attention: str = 'auto'

  # Converter family of the weights, a key of `interop.parts.FAMILIES`.
  family = ''
  is_stochastic = False  # whether `encode` draws latents by a noise

  def common_fields(self) -> dict[str, Any]:
    """Returns the fields that all encoders and decoders share."""
    return {
      'dtype': self.dtype,
      'remat': self.remat,
      'attention': self.attention,
    }

  @property
  def factor(self) -> int:
    """Pixels of a side of a cell of the finest latent."""
    return 2 ** (len(self.ddconfig['ch_mult']) - 1)

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

  @property
  def codebook_names(self) -> tuple[str, ...]:
    """The submodules that have the trained `embedding` of each scale."""
    return ()

  def encode(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> list[jax.Array]:
    """Returns the latents that a diffusion model learns, before quantisation.

    Args:
      image: (B, H, W, 3) in [-1, 1], sides multiples of `coarsest_factor`.
      noise: standard normal, of the latent's shape, with which it is drawn
        from the posterior where `is_stochastic`; None for its mean.

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
    """Returns `extra`, the `latents` and what the entries are decoded to.

    These are `features` and the `reconstruction` (B, H, W, 3) that they give.
    """
    features = self.decode_features(entries, quantize=False)
    return {
      'reconstruction': self.last_conv(features),
      'features': features,
      'latents': latents,
      **extra,
    }
