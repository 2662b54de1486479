"""DiffiT in image space: a U-shape of residual blocks with TMSA in windows.

arXiv:2312.02139, section 3.2 and tables S.2 and S.3. No code of it was
released, and the paper contradicts itself about the sizes; where it is silent
the choices are those of NVlabs/edm (DDPM++), whose training it follows. Every
choice is an attribute.
"""

from collections.abc import Sequence
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import features as features_lib
from pyramid_jax.networks.layers import init
from pyramid_jax.networks.layers import linear
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import resampling
from pyramid_jax.networks.layers import tmsa


EMBEDDINGS = ('positional', 'fourier')
SKIPS = ('block', 'level')
RESAMPLINGS = ('conv', 'pool')

_SMALLEST_GROUP = 4  # channels
_EPS = 1e-6


def group_norm(
  x: jax.Array, groups: int, dtype: jnp.dtype, name: str
) -> jax.Array:
  """Applies a group norm of at most `groups` groups of 4 channels or more."""
  count = max(1, min(groups, x.shape[-1] // _SMALLEST_GROUP))
  return norms.GroupNorm(_EPS, count, dtype, name=name)(x)


class ResBlock(nn.Module):
  """Norm, SiLU, convolution, transformer block; all of it a residual.

  arXiv:2312.02139, equations 9 and 10.

  Attributes:
    out_channels: of the result; where x has others, a pointwise convolution
      brings it there.
    heads: of the attention.
    window: side of the attention's windows.
    mlp_ratio: see `tmsa.DiffiTBlock`.
    time_token: see `tmsa.DiffiTBlock`.
    dropout: see `tmsa.DiffiTBlock`.
    groups: most groups of the norm.
    skip_scale: factor of the sum.
    conv_gain: factor of the convolution's initial weights.
    qkv_gain: see `tmsa.DiffiTBlock`.
    branch_gain: `out_gain` of `tmsa.DiffiTBlock`.
    dtype: of the activations.
    attention: see `tmsa.DiffiTBlock`.
  """

  out_channels: int
  heads: int
  window: int
  mlp_ratio: float = 4.0
  time_token: str = 'tmsa'
  dropout: float = 0.0
  groups: int = 32
  skip_scale: float = 1.0
  conv_gain: float = 1.0
  qkv_gain: float = 1.0
  branch_gain: float = 1.0
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'

  @nn.compact
  def __call__(
    self, x: jax.Array, time: jax.Array, train: bool = False
  ) -> jax.Array:
    """Maps (B, H, W, C) to (B, H, W, out_channels).

    Args:
      x: (B, H, W, C).
      time: (B, D) or (1, D) time tokens.
      train: whether dropout is active, which needs a 'dropout' key.
    """
    h = nn.silu(group_norm(x, self.groups, self.dtype, 'norm'))
    h = convolution.Conv(
      self.out_channels,
      dtype=self.dtype,
      kernel_init=init.xavier(self.conv_gain),
      bias_init=nn.initializers.zeros,
      name='conv',
    )(h)
    h = tmsa.DiffiTBlock(
      self.heads,
      self.window,
      self.mlp_ratio,
      self.time_token,
      self.dropout,
      self.dtype,
      self.attention,
      self.qkv_gain,
      self.branch_gain,
      name='transformer',
    )(h, time, train)
    if x.shape[-1] != self.out_channels:
      x = linear.Linear(
        self.out_channels,
        dtype=self.dtype,
        kernel_init=init.xavier(),
        bias_init=nn.initializers.zeros,
        name='skip',
      )(x)
    return (x + h) * self.skip_scale


class DiffiT(nn.Module):
  """Maps noisy images and a noise label to what the preconditioning wants.

  The defaults are the recommended build for CIFAR-10; FFHQ at 64 pixels has
  `channel_mult` (1, 2, 2, 2), `window` 8 and `dropout` 0.05.

  Attributes:
    in_channels: of x.
    out_channels: of the result.
    width: channels in front of the first level.
    channel_mult: channels of each level over `width`, finest first; every
      further level has half the sides.
    num_blocks: residual blocks of a level, on the way down and (but for the
      last level) again on the way up; one number, or one for each level.
    window: side of the windows of attention, likewise.
    head_dim: width of a head, which must divide the channels of each level.
    mlp_ratio: hidden width of the feed-forwards over the channels.
    time_dim: width of the time token.
    embedding: of the noise label: 'positional' (sines and cosines), or
      'fourier' (fixed random frequencies, of NCSN++).
    embedding_dim: channels of that embedding; 128, or 256 for 'fourier'.
    fourier_scale: deviation of the random frequencies.
    num_classes: classes, 0 for a network without; class `num_classes` is none.
    augment_dim: channels of the augmentation labels, 0 for none.
    skips: what the way up gets from the way down: 'block': the result of
      every block, 'level': that of each level's last.
    skip_scale: factor of each residual block's result; 1 is equation 10.
    stem_stride: pixels of a side of one position of the finest level. 1 as
      published; n makes the pixels of n x n squares channels, for small
      machines.
    resample: how levels are halved and doubled: 'conv': a strided convolution,
      and a convolution of repeated pixels; 'pool': 2 x 2 pixels are averaged
      in front of a convolution instead.
    groups: most groups of the norms, which have at least 4 channels each.
    dropout: rate on attention outputs and hidden values when training.
    conv_gain: factor of the initial convolutions of the residual blocks.
    branch_gain: of the last layers of attentions and feed-forwards.
    qkv_gain: of the queries, keys and values.
    head_gain: of the last convolution.
    time_token: 'tmsa', or 'add' for blocks of plain attention in front of
      which the time token is added, to compare with.
    dtype: of the activations; embeddings, head and result are float32.
    remat: whether blocks recompute their activations in the backward pass.
    attention: which kernel attends, see `attention.dot_product_attention`.
  """

  in_channels: int = 3
  out_channels: int = 3
  width: int = 128
  channel_mult: Sequence[int] = (2, 2, 2)
  num_blocks: int | Sequence[int] = 4
  window: int | Sequence[int] = 4
  head_dim: int = 64
  mlp_ratio: float = 4.0
  time_dim: int = 512
  embedding: str = 'positional'
  embedding_dim: int = 128
  fourier_scale: float = 16.0
  num_classes: int = 0
  augment_dim: int = 0
  skips: str = 'block'
  skip_scale: float = 0.5**0.5
  stem_stride: int = 1
  resample: str = 'conv'
  groups: int = 32
  dropout: float = 0.13
  conv_gain: float = 1e-5
  branch_gain: float = 1e-5
  qkv_gain: float = 0.2**0.5
  head_gain: float = 1e-5
  time_token: str = 'tmsa'
  dtype: jnp.dtype = jnp.float32
  remat: bool = False
  attention: str = 'auto'

  @property
  def levels(self) -> int:
    """Resolutions."""
    return len(self.channel_mult)

  @property
  def multiple(self) -> int:
    """What the sides of an image must be multiples of."""
    windows = self._each('window')
    sides = [2**level * windows[level] for level in range(self.levels)]
    return self.stem_stride * math.lcm(*sides)

  def _each(self, name: str) -> Sequence[int]:
    """Returns the values of an attribute for all levels."""
    value = getattr(self, name)
    if isinstance(value, int):
      return (value,) * self.levels
    return value

  def check_options(self) -> None:
    """Raises ValueError if attributes are not allowed or contradict."""
    allowed = {
      'embedding': EMBEDDINGS,
      'skips': SKIPS,
      'resample': RESAMPLINGS,
      'time_token': tmsa.TIME_TOKENS,
    }
    for name, choices in allowed.items():
      if getattr(self, name) not in choices:
        raise ValueError(
          f'{name} is {getattr(self, name)!r}, allowed: {", ".join(choices)}.'
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
    """Returns the raw result, and the activations of `features` if there are.

    Args:
      x: (B, H, W, in_channels), sides multiples of `multiple`.
      noise_label: (B,), or (1,) if the whole batch shares it; what the
        preconditioning calls c_noise.
      class_labels: (B,) ids in [0, num_classes], the last for no class; None
        for none at all.
      augment_labels: (B, augment_dim) how x was augmented; None = not at all.
      train: whether dropout is active, which needs a 'dropout' key.
      features: names of activations: `down0_1` comes out of the second block of
        the finest level on the way down, `up0_1` on the way up; the coarsest
        level is on the way down.

    Returns:
      (B, H, W, out_channels) float32; with `features` a pair of it and {name:
      activation}.

    Raises:
      ValueError: options that contradict each other, or arguments that do
        not fit them.
    """
    self.check_options()
    if x.ndim != 4 or x.shape[-1] != self.in_channels:
      raise ValueError(
        f'x must be (B, H, W, {self.in_channels}), got shape {x.shape}.'
      )
    self.check_size(*x.shape[1:3])
    self._check_labels(len(x), class_labels, augment_labels)
    time = self._embed(noise_label, class_labels, augment_labels)
    h = resampling.space_to_depth(x, self.stem_stride)
    h = self._conv('stem', self.width)(h)
    found: dict[str, jax.Array] = {}
    h = self._up(*self._down(h, time, train, found), time, train, found)
    h = nn.silu(group_norm(h, self.groups, jnp.float32, 'head_norm'))
    h = convolution.Conv(
      self.out_channels * self.stem_stride**2,
      kernel_init=init.xavier(self.head_gain),
      bias_init=nn.initializers.zeros,
      name='head_conv',
    )(h)
    out = resampling.depth_to_space(h, self.stem_stride)
    return features_lib.with_features(out, found, features)

  def _check_labels(
    self,
    batch: int,
    class_labels: jax.Array | None,
    augment_labels: jax.Array | None,
  ) -> None:
    """Raises ValueError if labels do not fit the attributes."""
    classes = None if class_labels is None else class_labels.shape
    if classes is not None and (classes != (batch,) or not self.num_classes):
      raise ValueError(
        f'class_labels of shape {classes} need shape {(batch,)} and '
        f'num_classes > 0; num_classes = {self.num_classes}.'
      )
    augments = None if augment_labels is None else augment_labels.shape
    wanted = (batch, self.augment_dim)
    if augments is not None and (augments != wanted or not self.augment_dim):
      raise ValueError(
        f'augment_labels of shape {augments} need shape {wanted} and '
        f'augment_dim > 0; augment_dim = {self.augment_dim}.'
      )

  def _embed(
    self,
    noise_label: jax.Array,
    class_labels: jax.Array | None,
    augment_labels: jax.Array | None,
  ) -> jax.Array:
    """Returns the time tokens (B or 1, time_dim), float32."""
    if self.embedding == 'positional':
      emb = embeddings.timestep_embedding(
        noise_label, self.embedding_dim, endpoint=True
      )
    else:
      emb = embeddings.random_fourier_features(
        noise_label, self.embedding_dim, self.fourier_scale
      )
    emb = jnp.roll(emb, self.embedding_dim // 2, axis=-1)  # sines first
    if self.num_classes:
      if class_labels is None:
        class_labels = jnp.full(1, self.num_classes)
      one_hot = jax.nn.one_hot(class_labels, self.num_classes)
      label = self._linear('map_label', self.embedding_dim)
      emb = emb + label(one_hot * np.sqrt(self.num_classes))
    if self.augment_dim:
      if augment_labels is None:
        augment_labels = jnp.zeros((1, self.augment_dim))
      augment = self._linear('map_augment', self.embedding_dim, False)
      emb = emb + augment(augment_labels)
    for i in range(2):
      emb = nn.silu(self._linear(f'map_layer_{i}', self.time_dim)(emb))
    return emb

  def _down(
    self,
    h: jax.Array,
    time: jax.Array,
    train: bool,
    found: dict[str, jax.Array],
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Returns the coarsest map, and what the way up gets, finest first."""
    taken = []
    for level, count in enumerate(self._each('num_blocks')):
      for i in range(count):
        h = self._block(f'down_{level}_block_{i}', level)(h, time, train)
        found[f'down{level}_{i}'] = h
        is_taken = self.skips == 'block' or i == count - 1
        if is_taken and level + 1 < self.levels:
          taken.append(h)
      if level + 1 == self.levels:
        break
      name, strides = f'down_{level}_resample', 2
      if self.resample == 'pool':
        h, strides = resampling.average_pool(h), 1
      h = self._conv(name, h.shape[-1], strides)(h)
    return h, taken

  def _up(
    self,
    h: jax.Array,
    taken: list[jax.Array],
    time: jax.Array,
    train: bool,
    found: dict[str, jax.Array],
  ) -> jax.Array:
    """Returns the finest map, (B, H, W, C)."""
    counts = self._each('num_blocks')
    for level in reversed(range(self.levels - 1)):
      name = f'up_{level}_resample'
      h = self._conv(name, h.shape[-1])(resampling.enlarge(h))
      for i in range(counts[level]):
        if self.skips == 'block' or i == 0:
          h = jnp.concatenate([h, taken.pop()], axis=-1)
        h = self._block(f'up_{level}_block_{i}', level)(h, time, train)
        found[f'up{level}_{i}'] = h
    return h

  def _block(self, name: str, level: int) -> ResBlock:
    channels = self.channel_mult[level] * self.width
    module = ResBlock
    if self.remat:
      module = nn.remat(module, static_argnums=(3,))  # train
    return module(
      channels,
      channels // self.head_dim,
      self._each('window')[level],
      self.mlp_ratio,
      self.time_token,
      self.dropout,
      self.groups,
      self.skip_scale,
      self.conv_gain,
      self.qkv_gain,
      self.branch_gain,
      self.dtype,
      self.attention,
      name=name,
    )

  def _conv(
    self, name: str, channels: int, strides: int = 1
  ) -> convolution.Conv:
    return convolution.Conv(
      channels,
      strides=strides,
      dtype=self.dtype,
      kernel_init=init.xavier(),
      bias_init=nn.initializers.zeros,
      name=name,
    )

  def _linear(
    self, name: str, features: int, use_bias: bool = True
  ) -> linear.Linear:
    return linear.Linear(
      features,
      use_bias,
      kernel_init=init.xavier(),
      bias_init=nn.initializers.zeros,
      name=name,
    )
