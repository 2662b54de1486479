"""The body that the U-Nets share."""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import blocks
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import features as features_lib
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import remat
from pyramid_jax.networks.layers import transformer


@dataclasses.dataclass(frozen=True)
class Entry:
  """One entry of the trunk: a residual block, or what only halves the map."""

  channels: int  # The channels of its result.
  attends: bool  # whether attention follows its residual block
  # 'down' for an entry that only halves the map, 'up' for one that ends in
  # doubling it, None for neither.
  resample: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockInputs:
  """The arguments that all blocks of a trunk share."""

  # (B, E) or (1, E), the embedding of level and labels after its SiLU.
  emb: jax.Array
  # (B, S, context_dim) tokens; None for attention to the map itself.
  context: transformer.Context | None = None
  # (B, H, W, C) features of the coarser scales, for gates, or None.
  cond: jax.Array | None = None
  train: bool = False
  suffix: str = ''  # of the names of the blocks


class Trunk(nn.Module):
  """What the U-Nets have in common.

  A derived network says what a stage (scale or resolution) reads (`channels`)
  and, where stages have their own first and last convolutions, what each of
  them predicts (`ends`).
  """

  model_channels: int = 192  # the unit of widths, a multiple of 32
  # Residual blocks of a level on the way down; one more on the way up.
  num_res_blocks: int = 2
  # Factors of reduction at which blocks attend.
  attention_resolutions: Sequence[int] = (8, 4, 2)
  # Width of each level over `model_channels`; starts with 1, but for ADM's
  # network of 512 px.
  channel_mult: Sequence[int | float] = (1, 2, 4, 8)
  conv_resample: bool = True  # whether resampling has a convolution
  num_classes: int | None = None  # size of `y`, None for a network without it
  num_heads: int = -1  # -1 if `num_head_channels` is given.
  num_head_channels: int = -1  # width of a head, -1 if `num_heads` is given
  # Heads of self-attention on the way up where `legacy` is set and
  # `num_head_channels` is -1; -1 for `num_heads`.
  num_heads_upsample: int = -1
  use_scale_shift_norm: bool = False  # whether the embedding scales and shifts
  resblock_updown: bool = False  # whether residual blocks do the resampling
  # Whether queries of all heads lie together in the projection's channels.
  use_new_attention_order: bool = False
  # Whether transformers with a context attend, not self-attention alone.
  use_spatial_transformer: bool = False
  transformer_depth: int = 1  # blocks of a transformer
  context_dim: int | None = None  # width of the context; needed by transformers
  # Number of code ids whose logits are the result, None for none.
  n_embed: int | None = None
  legacy: bool = True  # whether heads are counted by the older rule of `heads`
  out_channels: int | None = None  # The channels of the result.
  dropout: float = 0.0  # rate in the residual blocks when training
  dtype: jnp.dtype = jnp.float32
  remat: str = 'none'
  # Octaves of Fourier features of a token's place that transformers add to it;
  # 0 in the reference.
  grid_frequencies: int = 0
  # Whether the context, pooled by learned queries, is added to the embedding of
  # the level, which every block reads (ours).
  pool_context: bool = False
  attention: str = 'auto'
  scan_blocks: int = 0

  # Fields of `pyunet.PyUNet`.
  use_spade_norm = False
  use_mscond = False
  use_embed = True
  gate_width = 128

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    context: transformer.Context | None = None,
    y: jax.Array | None = None,
    *,
    stage: int = 0,
    train: bool = False,
    features: Sequence[str] = (),
    control: Sequence[jax.Array] | jax.Array | None = None,
    concat_noise: jax.Array | None = None,
    aspect: jax.Array | None = None,
  ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the prediction of a stage.

    Gates, and keys and values of the context, go through `caching.cached`.

    Args:
      x: (B, H, W, C), any grid; the class says which channels a stage reads.
      context: (B, S, context_dim) tokens, optionally with boxes, or None, which
        makes transformers attend to the map itself.
      y: class ids (B,), or vectors (B, num_classes) for a `PyUNet` without
        `use_embed`; None without `num_classes`.
      features: `in0` (after the first convolution), `in1` ..., `mid0`, `mid1`,
        `mid2`, `out0` ...
      control: what a `controlnet.Branch` gave; the control map in a branch.
      aspect: (B, 2), logarithms of height and width of the whole image over
        those of the usual square, or None.

    Returns:
      (B, H, W, C) float32, C being the channels of the stage or `n_embed`.
    """
    self.check_options()
    self._check_arguments(x, context, y, stage)
    width = 4 * self.model_channels
    emb = self.embed_context(self.embed_level(t), context)
    if y is not None:
      emb += self.embed_label(y)
    if concat_noise is not None:
      emb += self.embed_level(250.0 * concat_noise, 'concat_noise_embed')
    if aspect is not None:
      high, wide = jnp.moveaxis(250.0 * aspect, -1, 0)
      height = self.embed_level(high, 'height_embed')
      emb += height + self.embed_level(wide, 'width_embed')
    if self.stage_vectors():
      table = affine.embed(self.stage_vectors(), width, 1.0, 'stage_emb')
      emb += table(jnp.full((1,), stage))
    h, cond = self.stem(x, stage)
    if self.is_initializing() and cond is None:
      cond = h  # The gates are made, even if this stage does not use them.
    # Every block begins with the SiLU: done once.
    inputs = BlockInputs(
      emb=nn.silu(emb),
      context=context,
      cond=cond,
      train=train,
      suffix=self.suffix(stage),
    )
    if self.is_initializing():
      for other in set(range(self.own_stages())) - {stage}:
        self._init_stage(x, inputs, other)
    found: dict[str, jax.Array] = {}
    h = self.walk(h, inputs, found, control)
    out = self.head(h, stage)
    return features_lib.with_features(out, found, features)

  @property
  def widths(self) -> tuple[int, ...]:
    """The channels of each level, finest first."""
    return tuple(int(mult * self.model_channels) for mult in self.channel_mult)

  def heads(self, channels: int, up: bool = False) -> tuple[int, int]:
    """Returns number and width of the heads of an attention, `up` or down.

    The rule of the official constructor of LDM: `legacy` matters only to
    `num_heads_upsample`, and where the heads do not divide the channels.
    """
    count, width = self.num_heads, self.num_head_channels
    above = up and self.legacy and not self.use_spatial_transformer
    if width != -1:
      count = channels // width
    elif above and self.num_heads_upsample != -1:
      count = self.num_heads_upsample
    fills = self.legacy and self.use_spatial_transformer
    if count and (fills or width == -1):
      width = channels // count
    if width and not (self.legacy or self.use_spatial_transformer):
      count = channels // width
    # A transformer's projections allow heads that do not fill the channels.
    fits = count * width == channels or self.use_spatial_transformer
    if not (fits and count and width):
      raise ValueError(
        f'{channels} channels cannot be split into heads with num_heads = '
        f'{self.num_heads}, num_head_channels = {self.num_head_channels}, '
        f'num_heads_upsample = {self.num_heads_upsample}.'
      )
    return count, width

  def channels(self, stage: int) -> int:
    """Returns the channels that a stage reads."""
    raise NotImplementedError

  def check_channels(self, x: jax.Array, stage: int) -> None:
    """Raises ValueError if x (B, H, W, C) is not what a stage reads."""
    channels = self.channels(stage)
    if x.ndim != 4 or x.shape[-1] != channels:
      raise ValueError(
        f'x must be (B, H, W, {channels}) at stage {stage}, got shape'
        f' {x.shape}.'
      )

  def ends(self) -> Sequence[int] | None:
    """Returns the output channels of each stage that has its own ends."""
    return None

  def own_stages(self) -> int:
    """Returns how many stages have modules of their own."""
    return len(self.ends() or ())

  def stage_count(self) -> int:
    """Returns how many stages there are."""
    limits = (self.own_stages(), self.stage_vectors())
    return min((n for n in limits if n), default=1)

  def stage_vectors(self) -> int:
    """Returns how many learned vectors of stages there are."""
    return 0

  def suffix(self, stage: int) -> str:
    """Returns the suffix of the names of a stage's own blocks, '' for none."""
    del stage
    return ''

  def _init_stage(self, x: jax.Array, inputs: BlockInputs, stage: int) -> None:
    """Makes the parameters that only another stage has."""
    inputs = dataclasses.replace(inputs, suffix=self.suffix(stage), train=False)
    if self.ends() is not None:
      x = jnp.zeros((*x.shape[:3], self.channels(stage)), x.dtype)
    h, _ = self.stem(x, stage)
    if inputs.suffix:
      self.walk(h, inputs, {})
    if self.ends() is not None:
      self.head(h, stage)

  def contradictions(self) -> dict[str, bool]:
    """Returns what is not allowed, and whether the attributes do it."""
    return {
      'channel_mult times model_channels must be 1 or more': (
        min(self.widths, default=0) < 1
      ),
      'num_heads and num_head_channels must be positive, or one of them -1': (
        max(self.num_heads, self.num_head_channels) < 1
        or 0 in (self.num_heads, self.num_head_channels)
      ),
      'context_dim belongs to use_spatial_transformer, which needs it': (
        (self.context_dim is not None) != self.use_spatial_transformer
      ),
      'out_channels is needed': (
        self.ends() is None and self.out_channels is None
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
    self.heads(down[-1].channels if down else self.model_channels)
    for entries, is_up in ((down, False), (up, True)):
      for entry in entries:
        if entry.attends:
          self.heads(entry.channels, is_up)

  def _check_arguments(
    self,
    x: jax.Array,
    context: transformer.Context | None,
    y: jax.Array | None,
    stage: int,
  ) -> None:
    count = self.stage_count()
    if not isinstance(stage, int) or not 0 <= stage < count:
      raise ValueError(
        f'stage must be a Python int in [0, {count}), got {stage!r}.'
      )
    self.check_channels(x, stage)
    if context is not None and context.shape[2:] != (self.context_dim,):
      raise ValueError(
        f'context must be (B, S, {self.context_dim}), or None without '
        f'use_spatial_transformer; got shape {context.shape}.'
      )
    needed: tuple[int, ...] | None = None
    if self.num_classes is not None:
      needed = x.shape[:1] + (self.num_classes,) * (not self.use_embed)
    got = None if y is None else y.shape
    if got != needed:
      raise ValueError(
        f'y must be of shape {needed}, got {got}; num_classes ='
        f' {self.num_classes}.'
      )

  def embed_level(self, t: jax.Array, name: str = 'time_embed') -> jax.Array:
    """Returns the embedding of noise levels (B,), (B, 4 model_channels)."""
    width = 4 * self.model_channels
    emb = embeddings.timestep_embedding(t, self.model_channels)
    emb = nn.silu(affine.Linear(width, name=f'{name}_0')(emb))
    return affine.Linear(width, name=f'{name}_2')(emb)

  def embed_label(self, y: jax.Array) -> jax.Array:
    """Returns the embedding of `y`, (B, 4 model_channels)."""
    width, name = 4 * self.model_channels, 'label_emb'
    if self.use_embed:
      return affine.embed(self.num_classes or 0, width, 1.0, name)(y)
    return affine.Linear(width, name=name)(y)

  def embed_context(
    self, emb: jax.Array, context: transformer.Context | None
  ) -> jax.Array:
    """Returns emb (B or 1, E) with the pooled context if `pool_context`."""
    if not self.pool_context:
      return emb
    if context is None:
      raise ValueError('pool_context needs a context, got none.')
    return emb + transformer.pooled(context, emb.shape[-1])

  def layout(self) -> tuple[list[Entry], list[Entry]]:
    """Lists the entries on the way down and on the way up.

    Each of the latter takes one skip, that of the stem included. Between them
    lies a middle block as wide as the last level, which always attends.
    """
    down: list[Entry] = []
    up: list[Entry] = []
    for level, width in enumerate(self.widths):
      attends = 2**level in self.attention_resolutions
      entry = Entry(width, attends, None)
      down += [entry] * self.num_res_blocks
      if level + 1 < len(self.channel_mult):
        down.append(Entry(entry.channels, False, 'down'))
      last = dataclasses.replace(entry, resample='up' if level else None)
      up = [entry] * self.num_res_blocks + [last] + up
    return down, up

  def stem(
    self, x: jax.Array, stage: int
  ) -> tuple[jax.Array, jax.Array | None]:
    """Returns the first convolution of x, and features for gates or None."""
    return self.conv(f'input_blocks{self.suffix(stage)}_0_0')(x), None

  def walk(
    self,
    h: jax.Array,
    inputs: BlockInputs,
    found: dict[str, jax.Array],
    control: Any = None,
  ) -> Any:
    """Takes the result of `stem` down, through the middle and up again.

    It fills `found` with the activations by name. `control` is a list of what
    is added to every skip, and last to the middle.
    """
    skips, h = self.descend(h, inputs, found)
    if control is not None:
      *added, middle = control
      skips = [x + c for x, c in zip(skips, added, strict=True)]
      h = h + middle
    for i, entry in enumerate(self.layout()[1]):
      name = f'output_blocks{inputs.suffix}_{i}'
      h = jnp.concatenate([h, skips.pop()], axis=-1)
      h = self._res_block(f'{name}_0', h, inputs, entry.channels)
      if entry.attends:
        h = self._attend(f'{name}_1', h, inputs, up=True)
      if entry.resample:
        name = f'{name}_{1 + entry.attends}'
        _, height, width, _ = skips[-1].shape
        size = (height, width)
        if self.resblock_updown:
          h = self._res_block(name, h, inputs, entry.channels, 'up', size)
        else:
          module = blocks.Upsample(self.conv_resample, self.dtype, name=name)
          h = module(h, size)
      found[f'out{i}'] = h
    return h

  def descend(
    self, h: jax.Array, inputs: BlockInputs, found: dict[str, jax.Array]
  ) -> tuple[list[jax.Array], jax.Array]:
    """Returns the skips, finest first, and the result of the middle."""
    skips = [h]
    # The trunk's own first convolution is its entry 0.
    first = 1 if self.ends() is None else 0
    for i, entry in enumerate(self.layout()[0], first):
      name = f'input_blocks{inputs.suffix}_{i}'
      if entry.resample and not self.resblock_updown:
        fields = (self.conv_resample, self.dtype)
        h = blocks.Downsample(*fields, name=f'{name}_0')(h)
      else:
        channels, resample = entry.channels, entry.resample
        h = self._res_block(f'{name}_0', h, inputs, channels, resample)
      if entry.attends:
        h = self._attend(f'{name}_1', h, inputs)
      skips.append(h)
    found.update({f'in{i}': skip for i, skip in enumerate(skips)})

    name, channels = f'middle_block{inputs.suffix}', h.shape[-1]
    h = found['mid0'] = self._res_block(f'{name}_0', h, inputs, channels)
    h = found['mid1'] = self._attend(f'{name}_1', h, inputs)
    h = found['mid2'] = self._res_block(f'{name}_2', h, inputs, channels)
    return skips, h

  def head(self, h: jax.Array, stage: int) -> Any:
    """Maps (B, H, W, C) of the first level to a prediction, float32."""
    ends, logits = self.ends(), None
    if self.n_embed is not None:
      logits = norms.GroupNorm(1e-5, name='id_predictor_0')(h)
      logits = affine.Linear(self.n_embed, name='id_predictor_1')(logits)
      if not self.is_initializing():
        return logits
    name = 'out' if ends is None else f'out_{stage}'
    channels = self.out_channels if ends is None else ends[stage]
    assert channels is not None  # see contradictions
    # float32: a few channels wide, and what the sampler integrates
    dtype = jnp.promote_types(h.dtype, jnp.float32)
    h = nn.silu(norms.GroupNorm(1e-5, dtype=dtype, name=f'{name}_0')(h))
    last = affine.Conv(channels, dtype=dtype, name=f'{name}_2', **affine.ZEROS)
    out = last(h)
    return out if logits is None else logits

  def conv(self, name: str) -> affine.Conv:
    """Returns a 3 x 3 convolution to the width of the first level."""
    return affine.Conv(self.widths[0], dtype=self.dtype, name=name)

  def _res_block(
    self,
    name: str,
    h: jax.Array,
    inputs: BlockInputs,
    channels: int,
    resample: str | None = None,
    size: tuple[int, int] | None = None,
  ) -> jax.Array:
    # size and train are no arrays
    module = remat.wrapped(blocks.ResBlock, self.remat, static=(4, 5))
    return module(
      channels,
      self.dropout,
      self.use_scale_shift_norm,
      resample,
      name=name,
      **self._common(),
    )(h, inputs.emb, inputs.cond, size, inputs.train)

  def _attend(
    self, name: str, h: jax.Array, inputs: BlockInputs, up: bool = False
  ) -> jax.Array:
    heads, head_dim = self.heads(h.shape[-1], up)
    if self.use_spatial_transformer:
      # train is no array
      spatial = remat.wrapped(
        transformer.SpatialTransformer, self.remat, static=(4,)
      )
      return spatial(
        heads,
        head_dim,
        self.transformer_depth,
        self.use_mscond,
        self.grid_frequencies,
        self.attention,
        self.scan_blocks,
        name=name,
        **self._common(),
      )(h, inputs.context, inputs.cond, inputs.train)
    return remat.wrapped(blocks.AttentionBlock, self.remat)(
      heads,
      self.use_new_attention_order,
      self.attention,
      name=name,
      **self._common(),
    )(h, inputs.cond)

  def _common(self) -> dict[str, Any]:
    """Returns the fields of a `norms.MaybeGated` block."""
    return {
      'gated': self.use_spade_norm,
      'gate_width': self.gate_width,
      'dtype': self.dtype,
    }
