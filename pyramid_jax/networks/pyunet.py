"""The denoiser of Frido: one U-Net for all scales of a feature pyramid."""

from collections.abc import Sequence

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


class PyUNet(nn.Module):
  """Predicts the noise of one scale, gated by the coarser ones.

  davidhalladay/Frido: frido/modules/diffusionmodules/pyunet.py, PyUNetModel;
  the attributes are its constructor's arguments. All scales share the trunk.
  A scale has its own first and last convolution, a learned vector beside the
  noise level's, and, if `use_spade_norm`, the features of the coarser scales
  scale and shift every norm of the trunk. Without it they are input channels.

  Attributes:
    split_embed_dim_list: channels of each scale, coarse first.
    model_channels: width of the first level, a multiple of 32.
    num_res_blocks: residual blocks of a level on the way down.
    attention_resolutions: factors of reduction at which blocks attend.
    channel_mult: width of each level over the first; starts with 1.
    conv_resample: whether resampling has a convolution.
    num_classes: size of `y`, None for a network without it.
    use_embed: whether `y` holds class ids instead of vectors.
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
    legacy: whether transformers have a single head whatever the two fields
      say (the published models do).
    num_stage: rows of the learned vectors of scales, 1 for none.
    use_split_head: whether scales have their own convolutions; else all
      channels go in and come out at once.
    use_spade_norm: whether norms are gated by the coarser scales.
    use_mscond: whether transformers attend to the coarser scales.
    use_pos_embed: whether transformers have position embeddings.
    use_stage_expert: whether every scale has a trunk of its own.
    image_size: longest side of a map with position embeddings.
    out_channels: of the result without `use_split_head`.
    dropout: rate in the residual blocks when training.
    dtype: of the activations.
    remat: whether blocks recompute their activations in the backward pass.
    gate_width: hidden channels of the gates; 128 in the reference.
    grid_frequencies: see `transformer.SpatialTransformer`; 0 in the reference.
  """

  split_embed_dim_list: Sequence[int] = ()
  model_channels: int = 192
  num_res_blocks: int = 2
  attention_resolutions: Sequence[int] = (8, 4, 2)
  channel_mult: Sequence[int] = (1, 2, 4, 8)
  conv_resample: bool = True
  num_classes: int | None = None
  use_embed: bool = False
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
  num_stage: int = 1
  use_split_head: bool = False
  use_spade_norm: bool = False
  use_mscond: bool = False
  use_pos_embed: bool = False
  use_stage_expert: bool = False
  image_size: int = 32
  out_channels: int | None = None
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32
  remat: bool = False
  gate_width: int = 128
  grid_frequencies: int = 0

  def heads(self, channels: int, up: bool = False) -> tuple[int, int]:
    """Returns number and width of the heads of an attention.

    The rule of the official constructor, where `legacy` is a live assignment:
    see `use_spatial_transformer`, `legacy` and the three counts above.

    Args:
      channels: of the map.
      up: whether the attention lies on the way up.

    Raises:
      ValueError: the channels cannot be split so.
    """
    count, width = self.num_heads, self.num_head_channels
    if self.use_spatial_transformer and self.legacy:
      return 1, channels
    if width != -1:
      count = channels // width
    else:
      if self.legacy:
        above = self.num_heads_upsample
        count = (count if above == -1 else above) if up else 1
      width = channels // count
    # A transformer's projections allow heads that do not fill the channels.
    fits = count * width == channels or self.use_spatial_transformer
    if not (fits and count and width):
      raise ValueError(
        f'{channels} channels cannot be split into heads with num_heads = '
        f'{self.num_heads}, num_head_channels = {self.num_head_channels}, '
        f'num_heads_upsample = {self.num_heads_upsample}.'
      )
    return count, width

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    context: transformer.Context | None = None,
    y: jax.Array | None = None,
    *,
    stage: int,
    train: bool = False,
  ) -> jax.Array:
    """Returns the prediction for the channels of scale `stage`.

    Gates and keys and values of the context go through `caching.cached`.

    Args:
      x: (B, H, W, C) with at least the channels of scales 0..stage, coarse
        first; later ones are ignored. Any grid.
      t: (B,), or (1,) if the whole batch shares it; index of the noise level.
      context: (B, S, context_dim), or such tokens with their places, or
        None, which makes transformers attend to the map itself.
      y: (B,) class ids or (B, num_classes) vectors if `num_classes`.
      stage: which scale, 0 = coarsest.
      train: whether dropout is active, which needs a 'dropout' key.

    Returns:
      (B, H, W, split_embed_dim_list[stage]) float32; `out_channels` or
      `n_embed` channels where these apply.

    Raises:
      ValueError: options that contradict each other, or arguments that do
        not fit them.
    """
    self.check_options()
    self._check_arguments(x, context, y, stage)
    emb = self._embedding(t, y, stage)
    h, cond = self._stem(x, stage)
    if self.is_initializing():
      # The parameters of all scales are made, whichever `stage` is.
      if cond is None:
        cond = jnp.zeros_like(h)
      self._touch_other_scales(x, emb, context, stage)
    h = self._trunk(h, emb, cond, context, stage, train)
    return self._head(h, stage)

  def _embedding(
    self, t: jax.Array, y: jax.Array | None, stage: int
  ) -> jax.Array:
    width = 4 * self.model_channels
    emb = embeddings.timestep_embedding(t, self.model_channels)
    emb = nn.silu(linear.Linear(width, name='time_embed_0')(emb))
    emb = linear.Linear(width, name='time_embed_2')(emb)
    normal = nn.initializers.normal(1.0)
    if self.num_classes is not None and self.use_embed:
      emb += nn.Embed(
        self.num_classes, width, embedding_init=normal, name='label_emb'
      )(y)
    elif y is not None:
      emb += linear.Linear(width, name='label_emb')(y)
    if self.num_stage > 1:
      emb += nn.Embed(
        self.num_stage, width, embedding_init=normal, name='stage_emb'
      )(jnp.asarray(stage))
    return nn.silu(emb)  # every block begins with it: done once

  def _stem(
    self, x: jax.Array, stage: int
  ) -> tuple[jax.Array, jax.Array | None]:
    if not self.use_split_head:
      return x, None
    start = sum(self.split_embed_dim_list[:stage]) if self.use_spade_norm else 0
    stop = sum(self.split_embed_dim_list[: stage + 1])
    h = self._conv(f'pre_input_blocks_{stage}_0')(x[..., start:stop])
    if not start:
      return h, None
    cond = self._conv(f'pre_input_cond_blocks_{stage - 1}_0')(x[..., :start])
    return h, cond

  def _trunk(
    self,
    h: jax.Array,
    emb: jax.Array,
    cond: jax.Array | None,
    context: transformer.Context | None,
    stage: int,
    train: bool,
  ) -> jax.Array:
    expert = f'_expert_{stage}' if self.use_stage_expert else ''
    down, up = self._layout()
    skips = []
    first = 0
    if not self.use_split_head:
      h = self._conv(f'input_blocks{expert}_0_0')(h)
      first = 1
    skips.append(h)
    for i, entry in enumerate(down, first):
      name = f'input_blocks{expert}_{i}'
      if entry.resample:
        h = self._down(name, h, emb, cond, train)
      else:
        h = self._res(f'{name}_0', entry.channels)(h, emb, cond, None, train)
        if entry.attends:
          h = self._attend(f'{name}_1', h, cond, context, train)
      skips.append(h)

    name, channels = f'middle_block{expert}', h.shape[-1]
    h = self._res(f'{name}_0', channels)(h, emb, cond, None, train)
    h = self._attend(f'{name}_1', h, cond, context, train)
    h = self._res(f'{name}_2', channels)(h, emb, cond, None, train)

    for i, entry in enumerate(up):
      name = f'output_blocks{expert}_{i}'
      h = jnp.concatenate([h, skips.pop()], axis=-1)
      h = self._res(f'{name}_0', entry.channels)(h, emb, cond, None, train)
      if entry.attends:
        h = self._attend(f'{name}_1', h, cond, context, train, up=True)
      if entry.resample:
        name = f'{name}_{1 + entry.attends}'
        _, height, width, _ = skips[-1].shape
        h = self._up(name, h, emb, cond, (height, width), train)
    return h

  def _layout(self) -> tuple[list[trunk.Entry], list[trunk.Entry]]:
    return trunk.layout(
      self.model_channels,
      self.channel_mult,
      self.num_res_blocks,
      self.attention_resolutions,
    )

  def _down(
    self,
    name: str,
    h: jax.Array,
    emb: jax.Array,
    cond: jax.Array | None,
    train: bool,
  ) -> jax.Array:
    if self.resblock_updown:
      res = self._res(f'{name}_0', h.shape[-1], 'down')
      return res(h, emb, cond, None, train)
    return blocks.Downsample(self.conv_resample, self.dtype, name=f'{name}_0')(
      h
    )

  def _up(
    self,
    name: str,
    h: jax.Array,
    emb: jax.Array,
    cond: jax.Array | None,
    size: tuple[int, int],
    train: bool,
  ) -> jax.Array:
    if self.resblock_updown:
      res = self._res(name, h.shape[-1], 'up')
      return res(h, emb, cond, size, train)
    return blocks.Upsample(self.conv_resample, self.dtype, name=name)(h, size)

  def _res(
    self, name: str, channels: int, resample: str | None = None
  ) -> blocks.ResBlock:
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
    )

  def _attend(
    self,
    name: str,
    h: jax.Array,
    cond: jax.Array | None,
    context: transformer.Context | None,
    train: bool,
    up: bool = False,
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
        self.image_size if self.use_pos_embed else 0,
        self.dtype,
        self.gate_width,
        self.grid_frequencies,
        name=name,
      )(h, context, cond, train)
    module = blocks.AttentionBlock
    if self.remat:
      module = nn.remat(module)
    return module(
      heads,
      self.use_new_attention_order,
      self.use_spade_norm,
      self.dtype,
      self.gate_width,
      name=name,
    )(h, cond)

  def _head(self, h: jax.Array, stage: int) -> jax.Array:
    if self.use_split_head:
      out = self._out(h, f'out_{stage}', self.split_embed_dim_list[stage])
    elif self.n_embed is None or self.is_initializing():
      out = self._out(h, 'out', self.out_channels)
    if self.n_embed is not None:
      h = norms.GroupNorm(1e-5, name='id_predictor_0')(h)
      out = linear.Linear(self.n_embed, name='id_predictor_1')(h)
    return out

  def _out(self, h: jax.Array, name: str, channels: int | None) -> jax.Array:
    assert channels is not None  # see check_options
    # float32: a few channels wide, and what the sampler integrates
    h = nn.silu(norms.GroupNorm(1e-5, name=f'{name}_0')(h))
    return convolution.Conv(
      channels,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.zeros,
      name=f'{name}_2',
    )(h)

  def _conv(self, name: str) -> convolution.Conv:
    return convolution.Conv(self.model_channels, dtype=self.dtype, name=name)

  def _touch_other_scales(
    self,
    x: jax.Array,
    emb: jax.Array,
    context: transformer.Context | None,
    stage: int,
  ) -> None:
    grid = x.shape[:3]
    features = jnp.zeros((*grid, self.model_channels), self.dtype)
    if self.use_split_head:
      x = jnp.zeros((*grid, sum(self.split_embed_dim_list)), x.dtype)
    for other in range(len(self.split_embed_dim_list)):
      if other == stage:
        continue
      h, _ = self._stem(x, other)
      if self.use_stage_expert:
        self._trunk(h, emb, features, context, other, False)
      if self.use_split_head:
        self._head(features, other)

  def check_options(self) -> None:
    """Raises ValueError if attributes contradict each other."""
    split = self.split_embed_dim_list
    refused = {
      'channel_mult must start with 1': self.channel_mult[0] != 1,
      'num_heads and num_head_channels must be positive, or one of them -1': (
        max(self.num_heads, self.num_head_channels) < 1
        or 0 in (self.num_heads, self.num_head_channels)
      ),
      'context_dim belongs to use_spatial_transformer, which needs it': (
        (self.context_dim is not None) != self.use_spatial_transformer
      ),
      'use_split_head needs split_embed_dim_list': (
        self.use_split_head and not split
      ),
      'out_channels is needed without use_split_head': (
        not self.use_split_head and self.out_channels is None
      ),
      'use_stage_expert needs split_embed_dim_list': (
        self.use_stage_expert and not split
      ),
      'n_embed excludes use_spade_norm and use_split_head': (
        self.n_embed is not None
        and (self.use_spade_norm or self.use_split_head)
      ),
    }
    for message, is_refused in refused.items():
      if is_refused:
        raise ValueError(
          f'{message}; got channel_mult = {self.channel_mult}, num_heads = '
          f'{self.num_heads}, num_head_channels = {self.num_head_channels}, '
          f'context_dim = {self.context_dim}, use_spatial_transformer = '
          f'{self.use_spatial_transformer}, split_embed_dim_list = {split}, '
          f'out_channels = {self.out_channels}, n_embed = {self.n_embed}.'
        )
    down, up = self._layout()
    for entry in down:
      if entry.attends:
        self.heads(entry.channels)
    self.heads(down[-1].channels if down else self.model_channels)
    for entry in up:
      if entry.attends:
        self.heads(entry.channels, up=True)

  def _check_arguments(
    self,
    x: jax.Array,
    context: transformer.Context | None,
    y: jax.Array | None,
    stage: int,
  ) -> None:
    split = self.split_embed_dim_list
    limits = [len(split)] * (self.use_split_head or self.use_stage_expert)
    limits += [self.num_stage] * (self.num_stage > 1)
    stages = min(limits, default=1)
    if not isinstance(stage, int) or not 0 <= stage < stages:
      raise ValueError(
        f'stage must be a Python int in [0, {stages}), got {stage!r}.'
      )
    needed = sum(split[: stage + 1]) if self.use_split_head else 1
    if x.ndim != 4 or x.shape[-1] < needed:
      raise ValueError(
        f'x must be (B, H, W, C) with C >= {needed} at stage {stage}, got '
        f'shape {x.shape}.'
      )
    if context is not None and (
      context.ndim != 3 or context.shape[-1] != self.context_dim
    ):
      raise ValueError(
        f'context must be (B, S, {self.context_dim}), or None without '
        f'use_spatial_transformer; got shape {context.shape}.'
      )
    if self.num_classes is None:
      shape = None
    else:
      shape = x.shape[:1] + (() if self.use_embed else (self.num_classes,))
    if (None if y is None else y.shape) != shape:
      raise ValueError(
        f'y must be of shape {shape}, got '
        f'{None if y is None else y.shape}; num_classes = '
        f'{self.num_classes}, use_embed = {self.use_embed}.'
      )
