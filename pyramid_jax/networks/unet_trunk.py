"""The body that the U-Nets share."""

from collections.abc import Sequence
import dataclasses
import re

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import blocks
from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import linear
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import transformer
from pyramid_jax.networks.layers import trunk


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockInputs:
  """What every block of a trunk is given beside the map.

  Attributes:
    emb: (B, E) or (1, E), the embedding of level and labels after its SiLU.
    context: (B, S, context_dim), or such tokens with their places, which
      transformers attend to; None for attention to the map itself.
    cond: (B, H, W, C) features of the coarser scales, for gates; None
      without any.
    train: whether dropout is active.
  """

  emb: jax.Array
  context: transformer.Context | None = None
  cond: jax.Array | None = None
  train: bool = False


class Trunk(nn.Module):
  """What the U-Nets have in common, to be derived from.

  A derived network says how heads are counted (`heads`), checks its own
  options (`contradictions`), and calls the methods below from its compact
  `__call__`, which therefore own the parameters.

  Attributes:
    model_channels: width of the first level, a multiple of 32.
    num_res_blocks: residual blocks of a level on the way down.
    attention_resolutions: factors of reduction at which blocks attend.
    channel_mult: width of each level over the first; starts with 1.
    conv_resample: whether resampling has a convolution.
    num_classes: size of `y`, None for a network without it.
    num_heads: of every attention, -1 if `num_head_channels` is given.
    num_head_channels: width of a head, -1 if `num_heads` is given.
    num_heads_upsample: heads on the way up, read where `legacy`, no
      transformer and `num_head_channels` = -1 meet; -1 for `num_heads`.
    use_scale_shift_norm: whether the embedding scales and shifts.
    resblock_updown: whether residual blocks do the resampling.
    use_new_attention_order: see `blocks.AttentionBlock`.
    use_spatial_transformer: attend by transformers with a context, else by
      self-attention alone.
    transformer_depth: blocks of a transformer.
    context_dim: width of the context; needed by transformers.
    n_embed: number of code ids; not None: the result is their logits.
    legacy: an older rule of counting heads, see `heads`.
    out_channels: of the result.
    dropout: rate in the residual blocks when training.
    dtype: of the activations.
    remat: whether blocks recompute their activations in the backward pass.
    grid_frequencies: see `transformer.SpatialTransformer`; 0 in the reference.
    pool_context: also add the context's tokens, pooled by the attention of
      learned queries, normalised and projected, to the embedding of the
      level (ours: every block then knows what is asked for, not only those
      that attend).
    attention: which kernel attends, see `attention.dot_product_attention`.
  """

  model_channels: int = 192
  num_res_blocks: int = 2
  attention_resolutions: Sequence[int] = (8, 4, 2)
  channel_mult: Sequence[int] = (1, 2, 4, 8)
  conv_resample: bool = True
  num_classes: int | None = None
  num_heads: int = -1
  num_head_channels: int = -1
  num_heads_upsample: int = -1
  use_scale_shift_norm: bool = False
  resblock_updown: bool = False
  use_new_attention_order: bool = False
  use_spatial_transformer: bool = False
  transformer_depth: int = 1
  context_dim: int | None = None
  n_embed: int | None = None
  legacy: bool = True
  out_channels: int | None = None
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32
  remat: bool = False
  grid_frequencies: int = 0
  pool_context: bool = False
  attention: str = 'auto'

  # Of a pyramid, whose network makes fields of them.
  use_spade_norm = False
  use_mscond = False
  gate_width = 128

  def heads(self, channels: int, up: bool = False) -> tuple[int, int]:
    """Returns number and width of the heads of an attention.

    Args:
      channels: of the map.
      up: whether the attention lies on the way up.

    Raises:
      ValueError: the channels cannot be split so.
    """
    raise NotImplementedError

  def max_grid(self) -> int:
    """Returns the longest side with a position embedding, 0 for none."""
    return 0

  def _bad_heads(self, channels: int) -> ValueError:
    return ValueError(
      f'{channels} channels cannot be split into heads with num_heads = '
      f'{self.num_heads}, num_head_channels = {self.num_head_channels}, '
      f'num_heads_upsample = {self.num_heads_upsample}.'
    )

  def layout(self) -> tuple[list[trunk.Entry], list[trunk.Entry]]:
    """Returns the entries of this network, see `trunk.layout`."""
    return trunk.layout(
      self.model_channels,
      self.channel_mult,
      self.num_res_blocks,
      self.attention_resolutions,
    )

  def contradictions(self) -> dict[str, bool]:
    """Returns what is not allowed, and whether the attributes do it."""
    return {
      'channel_mult must start with 1': self.channel_mult[0] != 1,
      'num_heads and num_head_channels must be positive, or one of them -1': (
        max(self.num_heads, self.num_head_channels) < 1
        or 0 in (self.num_heads, self.num_head_channels)
      ),
      'context_dim belongs to use_spatial_transformer, which needs it': (
        (self.context_dim is not None) != self.use_spatial_transformer
      ),
    }

  def check_options(self) -> None:
    """Raises ValueError if attributes contradict each other."""
    names = [field.name for field in dataclasses.fields(self)]
    for message, is_refused in self.contradictions().items():
      if is_refused:
        got = ', '.join(
          f'{name} = {getattr(self, name)!r}'
          for name in names
          if re.search(rf'\b{name}\b', message)
        )
        raise ValueError(f'{message}; got {got}.')
    down, up = self.layout()
    for entry in down:
      if entry.attends:
        self.heads(entry.channels)
    self.heads(down[-1].channels if down else self.model_channels)
    for entry in up:
      if entry.attends:
        self.heads(entry.channels, up=True)

  def check_conditions(
    self,
    context: transformer.Context | None,
    y: jax.Array | None,
    y_shape: tuple[int, ...] | None,
  ) -> None:
    """Raises ValueError if the conditions do not fit the attributes.

    Args:
      context: of the call.
      y: of the call.
      y_shape: what y must be, None for no y.
    """
    if context is not None and (
      context.ndim != 3 or context.shape[-1] != self.context_dim
    ):
      raise ValueError(
        f'context must be (B, S, {self.context_dim}), or None without '
        f'use_spatial_transformer; got shape {context.shape}.'
      )
    if (None if y is None else y.shape) != y_shape:
      raise ValueError(
        f'y must be of shape {y_shape}, got {None if y is None else y.shape};'
        f' num_classes = {self.num_classes}.'
      )

  def embed_level(self, t: jax.Array, name: str = 'time_embed') -> jax.Array:
    """Returns the embedding of noise levels (B,), (B, 4 model_channels)."""
    width = 4 * self.model_channels
    emb = embeddings.timestep_embedding(t, self.model_channels)
    emb = nn.silu(linear.Linear(width, name=f'{name}_0')(emb))
    return linear.Linear(width, name=f'{name}_2')(emb)

  def embed_concat_noise(self, logarithm: jax.Array) -> jax.Array:
    """Returns the embedding of the noise on a picture beside the state.

    Args:
      logarithm: (B,), of its deviation.

    Returns:
      (B, 4 model_channels), to be added to that of the level.
    """
    return self.embed_level(250.0 * logarithm, 'concat_noise_embed')

  def embed_aspect(self, aspect: jax.Array) -> jax.Array:
    """Returns the embedding of the shape of a whole image.

    Args:
      aspect: (B, 2), logarithms of its height and width over those of the
        usual square.

    Returns:
      (B, 4 model_channels), to be added to that of the level.
    """
    height, width = jnp.moveaxis(250.0 * aspect, -1, 0)
    return self.embed_level(height, 'height_embed') + self.embed_level(
      width, 'width_embed'
    )

  def embed_label(self, y: jax.Array) -> jax.Array:
    """Returns the embedding of class ids (B,), (B, 4 model_channels)."""
    assert self.num_classes is not None
    return nn.Embed(
      self.num_classes,
      4 * self.model_channels,
      embedding_init=nn.initializers.normal(1.0),
      name='label_emb',
    )(y)

  def embed_context(
    self, emb: jax.Array, context: transformer.Context | None
  ) -> jax.Array:
    """Returns emb (B or 1, E) with the pooled context if `pool_context`."""
    if not self.pool_context:
      return emb
    if context is None:
      raise ValueError('pool_context needs a context, got none.')
    return emb + transformer.pooled(context, emb.shape[-1])

  def walk(
    self,
    h: jax.Array,
    inputs: BlockInputs,
    *,
    suffix: str = '',
    stem: bool = True,
    found: dict[str, jax.Array] | None = None,
    control: Sequence[jax.Array] | jax.Array | None = None,
  ) -> jax.Array:
    """Goes down, through the middle and up again.

    Args:
      h: (B, H, W, C), any grid.
      inputs: of every block.
      suffix: of the names of the three lists of blocks.
      stem: whether the first entry is a convolution of h.
      found: filled with what comes out of every entry: `in0` (of the stem),
        `in1` ..., `mid0`, `mid1`, `mid2`, `out0` ...
      control: what is added to every skip and last to the middle, which a
        `controlnet.Branch` gives; a branch itself takes its map here.

    Returns:
      (B, H, W, model_channels).
    """
    found = {} if found is None else found
    skips, h = self.descend(h, inputs, suffix=suffix, stem=stem, found=found)
    if control is not None:
      *beside, middle = control
      skips = [x + c for x, c in zip(skips, beside, strict=True)]
      h = h + middle
    for i, entry in enumerate(self.layout()[1]):
      name = f'output_blocks{suffix}_{i}'
      h = jnp.concatenate([h, skips.pop()], axis=-1)
      h = self._apply_res(f'{name}_0', h, inputs, entry.channels)
      if entry.attends:
        h = self._attend(f'{name}_1', h, inputs, up=True)
      if entry.resample:
        name = f'{name}_{1 + entry.attends}'
        _, height, width, _ = skips[-1].shape
        h = self._up(name, h, inputs, (height, width))
      found[f'out{i}'] = h
    return h

  def descend(
    self,
    h: jax.Array,
    inputs: BlockInputs,
    *,
    suffix: str = '',
    stem: bool = True,
    hint: jax.Array | None = None,
    found: dict[str, jax.Array] | None = None,
  ) -> tuple[list[jax.Array], jax.Array]:
    """Goes down and through the middle.

    Args:
      h: (B, H, W, C), any grid.
      inputs: of every block.
      suffix: of the names of the lists of blocks.
      stem: whether the first entry is a convolution of h.
      hint: (B, H, W, model_channels), added to the first entry.
      found: filled with what comes out of every entry, as in `walk`.

    Returns:
      The skips, finest first, and the result of the middle.
    """
    down, _ = self.layout()
    found = {} if found is None else found
    skips = []
    first = 0
    if stem:
      h = self.conv(f'input_blocks{suffix}_0_0')(h)
      first = 1
    if hint is not None:
      h = h + hint
    skips.append(h)
    for i, entry in enumerate(down, first):
      name = f'input_blocks{suffix}_{i}'
      if entry.resample:
        h = self._down(f'{name}_0', h, inputs)
      else:
        h = self._apply_res(f'{name}_0', h, inputs, entry.channels)
        if entry.attends:
          h = self._attend(f'{name}_1', h, inputs)
      skips.append(h)
    found.update({f'in{i}': skip for i, skip in enumerate(skips)})

    name, channels = f'middle_block{suffix}', h.shape[-1]
    h = found['mid0'] = self._apply_res(f'{name}_0', h, inputs, channels)
    h = found['mid1'] = self._attend(f'{name}_1', h, inputs)
    h = found['mid2'] = self._apply_res(f'{name}_2', h, inputs, channels)
    return skips, h

  def _down(self, name: str, h: jax.Array, inputs: BlockInputs) -> jax.Array:
    if self.resblock_updown:
      return self._apply_res(name, h, inputs, h.shape[-1], 'down')
    return blocks.Downsample(self.conv_resample, self.dtype, name=name)(h)

  def _up(
    self, name: str, h: jax.Array, inputs: BlockInputs, size: tuple[int, int]
  ) -> jax.Array:
    if self.resblock_updown:
      return self._apply_res(name, h, inputs, h.shape[-1], 'up', size)
    return blocks.Upsample(self.conv_resample, self.dtype, name=name)(h, size)

  def _apply_res(
    self,
    name: str,
    h: jax.Array,
    inputs: BlockInputs,
    channels: int,
    resample: str | None = None,
    size: tuple[int, int] | None = None,
  ) -> jax.Array:
    """Applies a residual block of `channels` channels.

    Args:
      name: of the block.
      h: (B, H, W, C).
      inputs: of the block.
      channels: of the result.
      resample: 'down', 'up' or None.
      size: of the result if `resample` is 'up', else None.
    """
    module = blocks.ResBlock
    if self.remat:
      module = nn.remat(module, static_argnums=(4, 5))  # size and train
    return module(
      channels,
      self.dropout,
      self.use_scale_shift_norm,
      self.use_spade_norm,
      resample,
      self.dtype,
      self.gate_width,
      name=name,
    )(h, inputs.emb, inputs.cond, size, inputs.train)

  def _attend(
    self, name: str, h: jax.Array, inputs: BlockInputs, up: bool = False
  ) -> jax.Array:
    heads, head_dim = self.heads(h.shape[-1], up)
    if self.use_spatial_transformer:
      spatial = transformer.SpatialTransformer
      if self.remat:
        spatial = nn.remat(spatial, static_argnums=(4,))  # train
      return spatial(
        heads,
        head_dim,
        self.transformer_depth,
        self.use_spade_norm,
        self.use_mscond,
        self.max_grid(),
        self.dtype,
        self.gate_width,
        self.grid_frequencies,
        self.attention,
        name=name,
      )(h, inputs.context, inputs.cond, inputs.train)
    module = blocks.AttentionBlock
    if self.remat:
      module = nn.remat(module)
    return module(
      heads,
      self.use_new_attention_order,
      self.use_spade_norm,
      self.dtype,
      self.gate_width,
      self.attention,
      name=name,
    )(h, inputs.cond)

  def whole_head(self, h: jax.Array) -> jax.Array:
    """Returns all output channels, or the logits of code ids, float32."""
    if self.n_embed is None or self.is_initializing():
      out = self.out(h, 'out', self.out_channels)
    if self.n_embed is not None:
      h = norms.GroupNorm(1e-5, name='id_predictor_0')(h)
      out = linear.Linear(self.n_embed, name='id_predictor_1')(h)
    return out

  def out(self, h: jax.Array, name: str, channels: int | None) -> jax.Array:
    """Returns (B, H, W, channels) float32: norm, SiLU, convolution."""
    assert channels is not None  # see contradictions
    # float32: a few channels wide, and what the sampler integrates
    dtype = jnp.promote_types(h.dtype, jnp.float32)
    h = nn.silu(norms.GroupNorm(1e-5, dtype=dtype, name=f'{name}_0')(h))
    return convolution.Conv(
      channels,
      dtype=dtype,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.zeros,
      name=f'{name}_2',
    )(h)

  def conv(self, name: str) -> convolution.Conv:
    """Returns a 3 x 3 convolution to the width of the first level."""
    return convolution.Conv(self.model_channels, dtype=self.dtype, name=name)
