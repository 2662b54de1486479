"""DiffiT in image space: a U-shape of residual blocks with TMSA in windows.

arXiv:2312.02139, section 3.2 and tables S.2 and S.3. No code of it was
released, and the paper contradicts itself about the sizes; where it is silent
the choices are those of NVlabs/edm (DDPM++), whose training it follows. Every
choice is an attribute.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import features as features_lib
from pyramid_jax.networks.layers import noise_vector
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import options
from pyramid_jax.networks.layers import remat
from pyramid_jax.networks.layers import repeated
from pyramid_jax.networks.layers import resampling
from pyramid_jax.networks.layers import tmsa


_EPS = 1e-6


class ResBlock(nn.Module):
  """Norm, SiLU, convolution, transformer block; all of it a residual.

  arXiv:2312.02139, equations 9 and 10.
  """

  out_channels: int
  block: Mapping[str, Any]  # fields of `tmsa.DiffiTBlock` but for dtype
  groups: int = 32  # most groups of the norm
  skip_scale: float = 1.0  # factor of the sum
  conv_gain: float = 1.0  # factor of the convolution's initial weights
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, time: jax.Array, train: bool = False
  ) -> jax.Array:
    """Maps (B, H, W, C) to (B, H, W, out_channels); `time` is (B or 1, D)."""
    features, dtype = self.out_channels, self.dtype
    h = nn.silu(norms.small_groups(x, self.groups, _EPS, dtype, 'norm'))
    h = affine.Conv(
      features, dtype=dtype, name='conv', **affine.xavier(self.conv_gain)
    )(h)
    h = tmsa.DiffiTBlock(dtype=dtype, name='transformer', **self.block)(
      h, time, train
    )
    if x.shape[-1] != features:
      fields = affine.xavier()
      x = affine.Linear(features, dtype=dtype, name='skip', **fields)(x)
    return (x + h) * self.skip_scale


class DiffiT(nn.Module):
  """Maps noisy images and a noise label to what the preconditioning wants.

  The defaults are the recommended build for CIFAR-10; FFHQ at 64 pixels has
  `channel_mult` (1, 2, 2, 2), `window` 8 and `dropout` 0.05.
  """

  # The family of official weights; none were released.
  family: ClassVar[str] = ''

  in_channels: int = 3
  out_channels: int = 3
  width: int = 128  # channels in front of the first level
  # Channels of each level over `width`, finest first; each halves the sides.
  channel_mult: Sequence[int] = (2, 2, 2)
  # Residual blocks of a level, on the way down and (but for the last level)
  # again on the way up; one number, or one for each level.
  num_blocks: int | Sequence[int] = 4
  # Side of the windows of attention; one number, or one for each level.
  window: int | Sequence[int] = 4
  head_dim: int = 64  # must divide the channels of each level
  mlp_ratio: float = 4.0  # hidden width of the feed-forwards over the channels
  time_dim: int = 512  # width of the time token
  # The noise label becomes sines and cosines ('positional') or random Fourier
  # features of NCSN++ ('fourier', usually of 256 channels).
  embedding: str = 'positional'
  embedding_dim: int = 128
  num_classes: int = 0  # 0 for none; class `num_classes` means no class
  augment_dim: int = 0  # channels of the augmentation labels, 0 for none
  # What the way up takes from the way down: the result of every 'block', or of
  # the last block of each 'level'.
  skips: str = 'block'
  skip_scale: float = 0.5**0.5  # Scales residual blocks; equation 10 has 1.
  # The pixels of n x n squares become channels, for small machines; 1 as
  # published.
  stem_stride: int = 1
  # 'conv' halves by a strided convolution, 'pool' by averages of 2 x 2 pixels
  # in front of a convolution. Both double by a convolution of repeated pixels.
  resample: str = 'conv'
  groups: int = 32  # most groups of the norms, each of 4 channels or more
  dropout: float = 0.13  # rate on attention outputs and hidden values
  conv_gain: float = 1e-5  # factor of the initial convolutions of the blocks
  # Factor of the initial last layers of attentions and feed-forwards.
  branch_gain: float = 1e-5
  qkv_gain: float = 0.2**0.5  # factor of the initial queries, keys and values
  head_gain: float = 1e-5  # factor of the initial last convolution
  time_token: str = 'tmsa'  # one of `tmsa.TIME_TOKENS`; 'tmsa' in the paper
  # That of the way up, empty for that of the way down (table 4 of the paper).
  decoder_time_token: str = ''
  dtype: jnp.dtype = jnp.float32
  remat: str = 'none'
  attention: str = 'auto'
  scan_blocks: int = 0

  @property
  def levels(self) -> int:
    """The number of resolutions."""
    return len(self.channel_mult)

  @property
  def multiple(self) -> int:
    """What the sides of an image must be multiples of, px."""
    windows = self._each('window')
    sides = [2**level * windows[level] for level in range(self.levels)]
    return self.stem_stride * math.lcm(*sides)

  def _each(self, name: str) -> Sequence[int]:
    """Returns the values of an attribute for all levels."""
    value = getattr(self, name)
    return (value,) * self.levels if isinstance(value, int) else value

  def check_options(self) -> None:
    """Raises ValueError if attributes are not allowed or contradict."""
    options.check(
      self,
      embedding=noise_vector.EMBEDDINGS,
      skips=('block', 'level'),
      resample=('conv', 'pool'),
      time_token=tmsa.TIME_TOKENS,
      decoder_time_token=('', *tmsa.TIME_TOKENS),
    )
    for name in ('num_blocks', 'window'):
      values = self._each(name)
      if len(values) != self.levels or not self.levels or min(values) < 1:
        raise ValueError(
          f'{name} = {getattr(self, name)} must be positive, one number or one '
          f'for each of the {self.levels} levels of channel_mult.'
        )
    if self.stem_stride < 1:
      raise ValueError(f'stem_stride = {self.stem_stride} must be positive.')
    for mult in self.channel_mult:
      if (mult * self.width) % self.head_dim:
        raise ValueError(
          f'head_dim = {self.head_dim} must divide the {mult * self.width} '
          'channels of each level.'
        )

  def check_size(self, height: int, width: int) -> None:
    """Raises ValueError if images of that size cannot be divided so."""
    if height % self.multiple or width % self.multiple:
      raise ValueError(
        f'images of {height} x {width} do not fit: sides must be multiples of '
        f'{self.multiple}, for stem_stride = {self.stem_stride}, '
        f'{self.levels} levels and window = {self.window}.'
      )

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    noise_label: jax.Array,
    class_labels: jax.Array | None = None,
    augment_labels: jax.Array | None = None,
    *,
    train: bool = False,
    features: Sequence[str] = (),
  ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the raw result.

    Args:
      x: (B, H, W, in_channels), sides multiples of `multiple`.
      noise_label: (B,) or (1,), what the preconditioning calls c_noise.
      class_labels: (B,) ids in [0, num_classes], the last for no class; None
        for none at all.
      augment_labels: (B, augment_dim) how x was augmented; None = not at all.
      features: `down0_1` is the result of the second block of the finest level
        on the way down, `up0_1` on the way up; the coarsest level is on the
        way down.

    Returns:
      (B, H, W, out_channels) float32.
    """
    self.check_options()
    if x.ndim != 4 or x.shape[-1] != self.in_channels:
      raise ValueError(
        f'x must be (B, H, W, {self.in_channels}), got shape {x.shape}.'
      )
    self.check_size(*x.shape[1:3])
    labels = noise_vector.Labels(
      num_classes=self.num_classes,
      augment_dim=self.augment_dim,
      classes=class_labels,
      augment=augment_labels,
    )
    labels.check(len(x))
    emb = noise_vector.embedded_level(
      self.embedding, noise_label, self.embedding_dim
    )
    time = noise_vector.make(emb, labels, self.time_dim)
    h = resampling.space_to_depth(x, self.stem_stride)
    h = self._conv('stem', self.width)(h)
    found: dict[str, jax.Array] = {}
    h = self._walk(h, time, train, found)
    h = norms.small_groups(h, self.groups, _EPS, jnp.float32, 'head_norm')
    h = nn.silu(h)
    channels = self.out_channels * self.stem_stride**2
    h = affine.Conv(
      channels, name='head_conv', **affine.xavier(self.head_gain)
    )(h)
    out = resampling.depth_to_space(h, self.stem_stride)
    return features_lib.with_features(out, found, features)

  def _walk(
    self,
    h: jax.Array,
    time: jax.Array,
    train: bool,
    found: dict[str, jax.Array],
  ) -> jax.Array:
    """Takes (B, H, W, width) down and up again; fills in what is `found`."""
    skips: list[jax.Array] = []
    counts = self._each('num_blocks')

    def run(way, level, count, h, joined=None):
      names = [f'{way}_{level}_block_{i}' for i in range(count)]

      def step(module, i, h, skip):
        if skip is not None:
          h = jnp.concatenate([h, skip], axis=-1)
        h = module._block(names[i], level, way)(h, time, train)
        return h, h

      h, after = repeated.run(
        self, step, names, h, joined, least=self.scan_blocks
      )
      found.update({f'{way}{level}_{i}': y for i, y in enumerate(after)})
      return h, after

    for level, count in enumerate(counts):
      h, after = run('down', level, count, h)
      if level + 1 < self.levels:
        skips += after if self.skips == 'block' else after[-1:]
        strides = 2
        if self.resample == 'pool':
          h, strides = resampling.average_pool(h), 1
        h = self._conv(f'down_{level}_resample', h.shape[-1], strides)(h)
    for level in reversed(range(self.levels - 1)):
      name = f'up_{level}_resample'
      h = self._conv(name, h.shape[-1])(resampling.enlarge(h))
      takes = [self.skips == 'block' or i == 0 for i in range(counts[level])]
      joined = [skips.pop() if t else None for t in takes]
      h, _ = run('up', level, counts[level], h, joined)
    return h

  def _block(self, name: str, level: int, way: str) -> ResBlock:
    token = self.time_token
    if way == 'up':
      token = self.decoder_time_token or token
    channels = self.channel_mult[level] * self.width
    module = remat.wrapped(ResBlock, self.remat, static=(3,))  # train
    block = {
      'heads': channels // self.head_dim,
      'window': self._each('window')[level],
      'mlp_ratio': self.mlp_ratio,
      'time_token': token,
      'dropout': self.dropout,
      'attention': self.attention,
      'qkv_gain': self.qkv_gain,
      'out_gain': self.branch_gain,
    }
    return module(
      channels,
      block,
      self.groups,
      self.skip_scale,
      self.conv_gain,
      self.dtype,
      name=name,
    )

  def _conv(self, name: str, channels: int, strides: int = 1) -> affine.Conv:
    return affine.Conv(
      channels, strides=strides, dtype=self.dtype, name=name, **affine.xavier()
    )
