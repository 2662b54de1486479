"""Convolutional encoders and decoders of the first stages.

The blocks shared by every autoencoder of this library: one scale or several,
Kullback-Leibler or vector quantised. Reference: CompVis/taming-transformers,
taming/modules/diffusionmodules/model.py, and the same file of
CompVis/latent-diffusion (`attn_type`, `tanh_out`). Submodules carry the
official names; index i of a list in the reference is the suffix _i here.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import resampling


EPS = 1e-6  # of every group norm of the first stages

ATTN_TYPES = ('vanilla', 'linear', 'none')


class ResnetBlock(nn.Module):
  """Adds two normalised, activated 3x3 convolutions to its input.

  Attributes:
    features: output channels; a pointwise shortcut appears where they differ
      from the input's.
    dropout: rate, active only where a 'dropout' random stream is given.
    dtype: of the activations.
  """

  features: int
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
  """Adds single-headed self-attention over all positions to its input.

  Attributes:
    dtype: of the activations; the softmax is float32.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to the same shape."""
    b, h, w, c = x.shape
    pointwise = lambda name: convolution.Conv(c, 1, dtype=self.dtype, name=name)
    y = norms.GroupNorm(EPS, dtype=self.dtype, name='norm')(x)
    q, k, v = (
      pointwise(name)(y).reshape(b, h * w, 1, c) for name in ('q', 'k', 'v')
    )
    y = attention.dot_product_attention(q, k, v).reshape(b, h, w, c)
    return x + pointwise('proj_out')(y)


class LinearAttnBlock(nn.Module):
  """Attention whose cost is linear in the positions, in place of its input.

  Neither a norm nor a residual: CompVis/latent-diffusion: ldm/modules/
  attention.py, LinearAttention with one head.

  Attributes:
    dtype: of the activations; the softmax is float32.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to the same shape."""
    b, h, w, c = x.shape
    qkv = convolution.Conv(
      3 * c, 1, use_bias=False, dtype=self.dtype, name='to_qkv'
    )(x).reshape(b, h * w, 3 * c)
    q, k, v = jnp.split(qkv, 3, axis=-1)
    k = jax.nn.softmax(k.astype(jnp.float32), axis=1).astype(self.dtype)
    y = q @ jnp.einsum('bnd,bne->bde', k, v)
    return convolution.Conv(c, 1, dtype=self.dtype, name='to_out')(
      y.reshape(b, h, w, c)
    )


class Downsample(nn.Module):
  """Halves height and width.

  Attributes:
    with_conv: a strided convolution that pads bottom and right only; without
      it, averages of 2 x 2 pixels.
    dtype: of the activations.
  """

  with_conv: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H // 2, W // 2, C)."""
    if not self.with_conv:
      return resampling.average_pool(x)
    return convolution.Conv(
      x.shape[-1],
      strides=2,
      padding=((0, 1), (0, 1)),
      dtype=self.dtype,
      name='conv',
    )(x)


class Upsample(nn.Module):
  """Doubles height and width by repetition.

  Attributes:
    with_conv: whether a 3x3 convolution follows.
    dtype: of the activations.
  """

  with_conv: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, 2 * H, 2 * W, C)."""
    x = resampling.enlarge(x)
    if not self.with_conv:
      return x
    return convolution.Conv(x.shape[-1], dtype=self.dtype, name='conv')(x)


class Level(nn.Module):
  """The blocks of one resolution, each followed by attention where asked.

  Attributes:
    features: output channels.
    blocks: number of residual blocks.
    attn_type: of the attention that follows every block; 'none' for none.
    dropout: rate in the blocks.
    resample: 'down', 'up' or None: what follows the last block.
    resamp_with_conv: whether that resampling has a convolution.
    dtype: of the activations.
    remat: recompute the blocks' activations in the backward pass.
  """

  features: int
  blocks: int
  attn_type: str
  dropout: float
  resample: str | None
  resamp_with_conv: bool
  dtype: jnp.dtype
  remat: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the output of the last block, before and after resampling."""
    block = nn.remat(ResnetBlock) if self.remat else ResnetBlock
    attn = attention_block(self.attn_type, self.remat)
    for i in range(self.blocks):
      x = block(self.features, self.dropout, self.dtype, name=f'block_{i}')(x)
      if attn is not None:
        x = attn(self.dtype, name=f'attn_{i}')(x)
    if self.resample is None:
      return x, x
    resample = {'down': Downsample, 'up': Upsample}[self.resample]
    name = f'{self.resample}sample'
    return x, resample(self.resamp_with_conv, self.dtype, name=name)(x)


class Middle(nn.Module):
  """Block, attention, block at the channels of the input.

  Attributes:
    attn_type: of the attention in between; 'none' for none.
    dropout: rate in the blocks.
    dtype: of the activations.
    remat: recompute the activations in the backward pass.
  """

  attn_type: str
  dropout: float
  dtype: jnp.dtype
  remat: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to the same shape."""
    block = nn.remat(ResnetBlock) if self.remat else ResnetBlock
    attn = attention_block(self.attn_type, self.remat)
    x = block(x.shape[-1], self.dropout, self.dtype, name='block_1')(x)
    if attn is not None:
      x = attn(self.dtype, name='attn_1')(x)
    return block(x.shape[-1], self.dropout, self.dtype, name='block_2')(x)


def attention_block(attn_type: str, remat: bool) -> type[nn.Module] | None:
  """Returns the class of the attention of a kind, None for 'none'.

  Raises:
    ValueError: an unknown kind.
  """
  if attn_type not in ATTN_TYPES:
    raise ValueError(f'attn_type is {attn_type!r}, allowed: {ATTN_TYPES}.')
  if attn_type == 'none':
    return None
  block = AttnBlock if attn_type == 'vanilla' else LinearAttnBlock
  return nn.remat(block) if remat else block


class Levels(nn.Module, kw_only=True):
  """What encoders and decoders have in common.

  Attributes:
    ch: channels that `ch_mult` multiplies, one factor a level, the level of
      the image first. There is a halving between levels.
    num_res_blocks: blocks a level of an encoder; a decoder has one more.
    attn_resolutions: nominal resolutions with attention. They count from
      `resolution`, whatever the size of the image.
    resolution: nominal side of the image.
    dropout: rate in the blocks.
    resamp_with_conv: whether changes of resolution have a convolution.
    attn_type: 'vanilla', 'linear', or 'none' for no attention at all.
    dtype: of the activations; latents and images are float32.
    remat: recompute the blocks' activations in the backward pass.
  """

  ch: int = 128
  ch_mult: tuple[int, ...]
  num_res_blocks: int = 2
  attn_resolutions: tuple[int, ...] = ()
  resolution: int = 256
  dropout: float = 0.0
  resamp_with_conv: bool = True
  attn_type: str = 'vanilla'
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  def level(
    self, index: int, nominal: int, blocks: int, resample: str | None
  ) -> Level:
    """Returns the unnamed level `index` at nominal resolution `nominal`."""
    return Level(
      features=self.ch * self.ch_mult[index],
      blocks=blocks,
      attn_type=self.attn_type if nominal in self.attn_resolutions else 'none',
      dropout=self.dropout,
      resample=resample,
      resamp_with_conv=self.resamp_with_conv,
      dtype=self.dtype,
      remat=self.remat,
    )

  def middle(self) -> Middle:
    """Returns the unnamed middle of the network."""
    return Middle(self.attn_type, self.dropout, self.dtype, self.remat)


class Encoder(Levels, kw_only=True):
  """Maps an image to a map of moments or latents.

  Attributes:
    z_channels: channels of a latent.
    double_z: whether there is a second set of channels, for variances.
  """

  z_channels: int
  double_z: bool = True

  def setup(self):
    self.conv_in = convolution.Conv(self.ch, dtype=self.dtype)
    self.down = down_levels(self)
    self.mid = self.middle()
    self.norm_out = norms.GroupNorm(EPS, dtype=self.dtype)
    self.conv_out = convolution.Conv(
      self.z_channels * (2 if self.double_z else 1)
    )

  def __call__(self, image: jax.Array) -> jax.Array:
    """Maps (B, H, W, 3) in [-1, 1] to (B, h, w, z_channels), float32.

    h = H / 2 ** (len(ch_mult) - 1), and twice the channels if double_z.

    Raises:
      ValueError: a side of the image cannot be halved that often.
    """
    features = run_down(self, image)[-1]
    return self.conv_out(nn.swish(self.norm_out(self.mid(features))))


class Decoder(Levels, kw_only=True):
  """Maps latents to an image; its last convolution can be called apart.

  The convolution is float32: bfloat16 resolves no more than every second
  grey level near white.

  Attributes:
    out_ch: channels of the image.
    tanh_out: whether a hyperbolic tangent closes the network.
  """

  out_ch: int = 3
  tanh_out: bool = False

  def setup(self):
    count = len(self.ch_mult)
    self.conv_in = convolution.Conv(
      self.ch * self.ch_mult[-1], dtype=self.dtype
    )
    self.mid = self.middle()
    # Doubled up from the smallest, as in the reference: this differs from the
    # encoder's halving where `resolution` is not divisible often enough.
    smallest = self.resolution // 2 ** (count - 1)
    self.up = [
      self.level(
        index=i,
        nominal=smallest * 2 ** (count - 1 - i),
        blocks=self.num_res_blocks + 1,
        resample='up' if i else None,
      )
      for i in range(count)
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


def down_levels(encoder: Levels) -> list[Level]:
  """Returns the unnamed levels of an encoder, that of the image first."""
  count = len(encoder.ch_mult)
  return [
    encoder.level(
      index=i,
      nominal=encoder.resolution // 2**i,
      blocks=encoder.num_res_blocks,
      resample='down' if i < count - 1 else None,
    )
    for i in range(count)
  ]


def run_down(encoder, image: jax.Array) -> list[jax.Array]:
  """Returns the activations at the end of every level of an encoder.

  Args:
    encoder: a bound module with `conv_in` and `down`.
    image: (B, H, W, C) in [-1, 1].

  Raises:
    ValueError: a side of the image cannot be halved often enough.
  """
  factor = 2 ** (len(encoder.ch_mult) - 1)
  if image.ndim != 4 or image.shape[1] % factor or image.shape[2] % factor:
    raise ValueError(
      f'the image must be (B, H, W, C) with H and W multiples of {factor}, '
      f'got shape {image.shape}.'
    )
  x = encoder.conv_in(image)
  kept = []
  for level in encoder.down:
    last, x = level(x)
    kept.append(last)
  return kept
