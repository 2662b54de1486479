"""The U-Nets DDPM++ and NCSN++ of EDM, also with TMSA in their attention.

NVlabs/edm: training/networks.py, SongUNet, which rebuilds the networks of
arXiv:2011.13456. Fields have the official names. Blocks have the official names
too, with underscores: `enc_32x32_block0` is `enc.32x32_block0`.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax import placement
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import features as features_lib
from pyramid_jax.networks.layers import noise_vector
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import options
from pyramid_jax.networks.layers import remat
from pyramid_jax.networks.layers import resampling
from pyramid_jax.networks.layers import tmsa


BUFFERS = 'buffers'  # the collection of the random frequencies
_FOURIER_SCALE = 16.0  # their standard deviation
_EPS = 1e-6
_GROUPS = 32  # the most groups of a norm
_SKIP_SCALE = 0.5**0.5  # factor of the sums of residual blocks
_BRANCH_GAIN = 1e-5  # factor of the initial last layers of branches
_QKV_GAIN = 0.2**0.5  # factor of the initial queries, keys and values

Resample = Callable[[jax.Array], jax.Array]


class Block(nn.Module):
  """Two convolutions, the vector added in between, and perhaps attention.

  NVlabs/edm: training/networks.py, UNetBlock, with the options of SongUNet.
  """

  out_channels: int
  resample: str = ''  # 'up', 'down' or '' for the size of the map
  resample_filter: Sequence[float] = (1, 1)
  # '' for none, 'plain', or 'tmsa' of arXiv:2312.02139, which reads the vector.
  attends: str = ''
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'

  @nn.compact
  def __call__(
    self, x: jax.Array, emb: jax.Array, train: bool = False
  ) -> jax.Array:
    """Maps (B, H, W, C) to (B, H', W', out_channels); `emb` is (B or 1, E)."""
    features, dtype, change = self.out_channels, self.dtype, self._resample()
    conv = lambda name, gain=1.0: affine.Conv(
      features, dtype=dtype, name=name, **affine.xavier(gain)
    )
    linear = lambda name: affine.Linear(
      features, dtype=dtype, name=name, **affine.xavier()
    )
    norm = lambda name, x: norms.small_groups(x, _GROUPS, _EPS, dtype, name)
    h = change(nn.silu(norm('norm0', x)))
    h = placement.split(conv('conv0')(h), -1, 'channels')
    h = h + linear('affine')(emb)[:, None, None]
    h = nn.silu(norm('norm1', h))
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = conv('conv1', _BRANCH_GAIN)(h)
    if self.resample or x.shape[-1] != features:
      x = linear('skip')(change(x))
    x = (x + h) * _SKIP_SCALE
    if self.attends:
      h = self._attention(x.shape[1])(norm('norm2', x), emb, train)
      x = (x + h) * _SKIP_SCALE
    return x

  def _resample(self) -> Resample:
    """Returns what changes the size of a map."""
    taps = self.resample_filter
    if self.resample == 'up':
      return lambda x: resampling.filtered_double(x, taps)
    if self.resample == 'down':
      padding = (len(taps) - 1) // 2
      return lambda x: resampling.filtered_half(x, taps, padding)
    return lambda x: x

  def _attention(self, side: int) -> tmsa.TimeAttention:
    """Returns the attention of all places of a square map, of one head."""
    is_tmsa = self.attends == 'tmsa'
    return tmsa.TimeAttention(
      heads=1,
      window=side,
      time_token='tmsa' if is_tmsa else '',
      has_bias=is_tmsa,
      dtype=self.dtype,
      attention=self.attention,
      qkv_gain=_QKV_GAIN,
      out_gain=_BRANCH_GAIN,
      name='attn',
    )


class SongUNet(nn.Module):
  """Maps noisy images and a noise label to what the preconditioning wants.

  The defaults are those of the official class, which are DDPM++. NCSN++ has
  `embedding_type` 'fourier', `channel_mult_noise` 2, `encoder_type` 'residual'
  and `resample_filter` (1, 3, 3, 1).
  """

  in_channels: int = 3
  out_channels: int = 3
  num_classes: int = 0  # 0 for none; class `num_classes` means no class
  augment_dim: int = 0  # channels of the augmentation labels, 0 for none
  model_channels: int = 128
  # Channels of each level over `model_channels`; each halves the sides.
  channel_mult: Sequence[int] = (1, 2, 2, 2)
  channel_mult_emb: int = 4  # width of the vector over `model_channels`
  num_blocks: int = 4  # of a level; the way up has one more
  attn_resolutions: Sequence[int] = (16,)  # sides of maps with attention, px
  dropout: float = 0.1
  embedding_type: str = 'positional'  # or 'fourier'
  # Channels of the embedded noise level over `model_channels`.
  channel_mult_noise: int = 1
  # How the image itself enters coarser levels: not at all ('standard'), by a
  # linear layer ('skip') or as a chain of convolutions ('residual').
  encoder_type: str = 'standard'
  # Whether the result is that of the finest level ('standard') or the sum of
  # those of all levels ('skip').
  decoder_type: str = 'standard'
  # Weights of neighbours where the size of maps changes, an even number.
  resample_filter: Sequence[int] = (1, 1)
  # Whether attention is TMSA (arXiv:2312.02139, table 5): the vector in
  # queries, keys and values, and biases of relative positions.
  tmsa: bool = False
  dtype: jnp.dtype = jnp.float32
  remat: str = 'none'
  attention: str = 'auto'

  @property
  def stem_stride(self) -> int:
    """The side of the pixels that are one place of the finest map."""
    return 1

  @property
  def family(self) -> str:
    """The family of the official weights, empty for networks without any."""
    return '' if self.tmsa else 'edm.song_unet'

  def check_options(self) -> None:
    """Raises ValueError if attributes are not allowed or contradict."""
    options.check(
      self,
      embedding_type=noise_vector.EMBEDDINGS,
      encoder_type=('standard', 'skip', 'residual'),
      decoder_type=('standard', 'skip'),
    )
    taps = self.resample_filter
    if len(taps) % 2 or not taps or min(taps) < 1:
      raise ValueError(
        f'resample_filter = {taps} must be an even number of positive numbers.'
      )
    if not self.channel_mult or self.num_blocks < 1:
      raise ValueError(
        f'channel_mult = {self.channel_mult} must name a level, and num_blocks'
        f' = {self.num_blocks} must be positive.'
      )
    if (self.model_channels * self.channel_mult_noise) % 4:
      raise ValueError(
        f'model_channels = {self.model_channels} times channel_mult_noise ='
        f' {self.channel_mult_noise} must be a multiple of 4.'
      )

  def check_size(self, height: int, width: int) -> None:
    """Raises ValueError if images of that size do not fit."""
    multiple = 2 ** (len(self.channel_mult) - 1)
    if height != width or height % multiple:
      raise ValueError(
        f'images of {height} x {width} do not fit: they must be square, their'
        f' sides multiples of {multiple} for {len(self.channel_mult)} levels.'
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
      x: (B, H, H, in_channels), see `check_size`.
      noise_label: (B,) or (1,), what the preconditioning calls c_noise.
      class_labels: (B,) ids in [0, num_classes], the last for no class; None
        for none at all.
      augment_labels: (B, augment_dim) how x was augmented; None = not at all.
      features: names of blocks, such as `enc_32x32_block0`.

    Returns:
      (B, H, H, out_channels) float32.
    """
    self.check_options()
    self.check_size(*x.shape[1:3])
    emb = self._vector(noise_label, class_labels, augment_labels, len(x))
    found: dict[str, jax.Array] = {}
    h, skips = self._down(x, emb, train, found)
    out = self._up(h, skips, emb, train, found)
    return features_lib.with_features(out, found, features)

  def _vector(
    self,
    noise_label: jax.Array,
    class_labels: jax.Array | None,
    augment_labels: jax.Array | None,
    batch: int,
  ) -> jax.Array:
    labels = noise_vector.Labels(
      num_classes=self.num_classes,
      augment_dim=self.augment_dim,
      classes=class_labels,
      augment=augment_labels,
    )
    labels.check(batch)
    dim = self.model_channels * self.channel_mult_noise
    frequencies = None
    if self.embedding_type == 'fourier':
      # Random, and never trained: released networks have their own.
      draw = lambda: (
        _FOURIER_SCALE * jax.random.normal(self.make_rng('params'), (dim // 2,))
      )
      frequencies = self.variable(BUFFERS, 'freqs', draw).value
    emb = noise_vector.embedded_level(
      self.embedding_type, noise_label, dim, frequencies
    )
    width = self.model_channels * self.channel_mult_emb
    return noise_vector.make(emb, labels, width)

  def _down(
    self,
    x: jax.Array,
    emb: jax.Array,
    train: bool,
    found: dict[str, jax.Array],
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Returns the coarsest map and all that the way up takes."""
    aux, h, skips = x, x, []
    for level, mult in enumerate(self.channel_mult):
      side = x.shape[1] >> level
      name = f'enc_{side}x{side}'
      if not level:
        h = self._conv(f'{name}_conv', self.model_channels)(h)
      else:
        block = self._block(f'{name}_down', h.shape[-1], resample='down')
        h = block(h, emb, train)
        h, aux = self._with_image(name, h, aux)
      skips.append(h)
      for i in range(self.num_blocks):
        attends = side in self.attn_resolutions
        block = self._block(
          f'{name}_block{i}', mult * self.model_channels, attends=attends
        )
        found[block.name] = h = block(h, emb, train)
        skips.append(h)
    return h, skips

  def _with_image(
    self, name: str, h: jax.Array, aux: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Adds to a map what comes from the image; returns both."""
    taps, channels = self.resample_filter, h.shape[-1]
    padding = (len(taps) - 1) // 2
    if self.encoder_type == 'skip':
      aux = resampling.filtered_half(aux, taps, padding)
      linear = affine.Linear(
        channels,
        dtype=self.dtype,
        name=f'{name}_aux_skip',
        **affine.xavier(),
      )
      h = h + linear(aux)
    elif self.encoder_type == 'residual':
      conv = self._conv(f'{name}_aux_residual', channels, 1 + padding)
      aux = resampling.filtered_half(conv(aux), taps, 0)
      h = aux = (h + aux) * _SKIP_SCALE
    return h, aux

  def _up(
    self,
    h: jax.Array,
    skips: list[jax.Array],
    emb: jax.Array,
    train: bool,
    found: dict[str, jax.Array],
  ) -> jax.Array:
    """Returns the result, (B, H, W, out_channels) float32."""
    out, last = None, len(self.channel_mult) - 1
    for level, mult in reversed(list(enumerate(self.channel_mult))):
      side = skips[0].shape[1] >> level
      name, channels = f'dec_{side}x{side}', h.shape[-1]
      if level == last:
        h = self._block(f'{name}_in0', channels, attends=True)(h, emb, train)
        h = self._block(f'{name}_in1', channels)(h, emb, train)
      else:
        block = self._block(f'{name}_up', channels, resample='up')
        h = block(h, emb, train)
      for i in range(self.num_blocks + 1):
        attends = i == self.num_blocks and side in self.attn_resolutions
        block = self._block(
          f'{name}_block{i}', mult * self.model_channels, attends=attends
        )
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        found[block.name] = h = block(h, emb, train)
      if self.decoder_type == 'skip' or not level:
        more = self._result(name, h)
        if out is not None:
          more += resampling.filtered_double(out, self.resample_filter)
        out = more
    assert out is not None
    return out

  def _result(self, name: str, h: jax.Array) -> jax.Array:
    """Maps (B, h, w, C) to (B, h, w, out_channels) float32."""
    h = norms.small_groups(h, _GROUPS, _EPS, jnp.float32, f'{name}_aux_norm')
    conv = affine.Conv(
      self.out_channels, name=f'{name}_aux_conv', **affine.xavier(_BRANCH_GAIN)
    )
    return conv(nn.silu(h))

  def _block(
    self, name: str, channels: int, resample: str = '', attends: bool = False
  ) -> Any:
    module = remat.wrapped(Block, self.remat, static=(3,))  # train
    kind = 'tmsa' if self.tmsa else 'plain'
    return module(
      channels,
      resample,
      self.resample_filter,
      kind if attends else '',
      self.dropout,
      self.dtype,
      self.attention,
      name=name,
    )

  def _conv(
    self, name: str, channels: int, padding: int | None = None
  ) -> affine.Conv:
    return affine.Conv(
      channels,
      padding=padding,
      dtype=self.dtype,
      name=name,
      **affine.xavier(),
    )
