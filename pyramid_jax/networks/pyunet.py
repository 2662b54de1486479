"""The denoiser of Frido: one U-Net for all scales of a feature pyramid."""

from collections.abc import Sequence
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import unet_trunk
from pyramid_jax.networks.layers import features as features_lib
from pyramid_jax.networks.layers import linear
from pyramid_jax.networks.layers import transformer


class PyUNet(unet_trunk.Trunk):
  """Predicts the noise of one scale, gated by the coarser ones.

  davidhalladay/Frido: frido/modules/diffusionmodules/pyunet.py, PyUNetModel;
  the attributes are its constructor's arguments. All scales share the trunk.
  A scale has its own first and last convolution, a learned vector beside the
  noise level's, and, if `use_spade_norm`, the features of the coarser scales
  scale and shift every norm of the trunk. Without it they are input channels.

  Attributes, beside those of `unet_trunk.Trunk`:
    split_embed_dim_list: channels of each scale, coarse first.
    use_embed: whether `y` holds class ids instead of vectors.
    num_stage: rows of the learned vectors of scales, 1 for none.
    use_split_head: whether scales have their own convolutions; else all
      channels go in and `out_channels` come out at once.
    use_spade_norm: whether norms are gated by the coarser scales.
    use_mscond: whether transformers attend to the coarser scales.
    use_pos_embed: whether transformers have position embeddings.
    use_stage_expert: whether every scale has a trunk of its own.
    image_size: longest side of a map with position embeddings.
    gate_width: hidden channels of the gates; 128 in the reference.
  """

  split_embed_dim_list: Sequence[int] = ()
  use_embed: bool = False
  num_stage: int = 1
  use_split_head: bool = False
  use_spade_norm: bool = False
  use_mscond: bool = False
  use_pos_embed: bool = False
  use_stage_expert: bool = False
  image_size: int = 32
  gate_width: int = 128

  def max_grid(self) -> int:
    return self.image_size if self.use_pos_embed else 0

  def heads(self, channels: int, up: bool = False) -> tuple[int, int]:
    """Returns number and width of the heads of an attention.

    The rule of the official constructor, where `legacy` is a live assignment:
    it gives transformers a single head whatever the two counts say (so do
    the published models), and self-attention one head on the way down.
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
      raise self._bad_heads(channels)
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
    features: Sequence[str] = (),
  ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
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
      features: names of activations, see `Trunk.walk`; the same for all scales.

    Returns:
      (B, H, W, split_embed_dim_list[stage]) float32; `out_channels` or
      `n_embed` channels where these apply. With `features` a pair of it and
      {name: activation}.

    Raises:
      ValueError: options that contradict each other, or arguments that do
        not fit them.
    """
    self.check_options()
    self._check_arguments(x, context, y, stage)
    emb = self._embedding(t, context, y, stage)
    h, cond = self._stem(x, stage)
    inputs = unet_trunk.BlockInputs(
      emb=emb, context=context, cond=cond, train=train
    )
    if self.is_initializing():
      # The parameters of all scales are made, whichever `stage` is.
      if cond is None:
        inputs = dataclasses.replace(inputs, cond=jnp.zeros_like(h))
      self._touch_other_scales(x, inputs, stage)
    found: dict[str, jax.Array] = {}
    h = self._body(h, inputs, stage, found)
    out = self._head(h, stage)
    return features_lib.with_features(out, found, features)

  def _embedding(
    self,
    t: jax.Array,
    context: transformer.Context | None,
    y: jax.Array | None,
    stage: int,
  ) -> jax.Array:
    emb = self.embed_context(self.embed_level(t), context)
    width = emb.shape[-1]
    if y is not None and self.use_embed:
      emb += self.embed_label(y)
    elif y is not None:
      emb += linear.Linear(width, name='label_emb')(y)
    if self.num_stage > 1:
      emb += nn.Embed(
        self.num_stage,
        width,
        embedding_init=nn.initializers.normal(1.0),
        name='stage_emb',
      )(jnp.asarray(stage))
    return nn.silu(emb)  # every block begins with it: done once

  def _stem(
    self, x: jax.Array, stage: int
  ) -> tuple[jax.Array, jax.Array | None]:
    if not self.use_split_head:
      return x, None
    start = sum(self.split_embed_dim_list[:stage]) if self.use_spade_norm else 0
    stop = sum(self.split_embed_dim_list[: stage + 1])
    h = self.conv(f'pre_input_blocks_{stage}_0')(x[..., start:stop])
    if not start:
      return h, None
    cond = self.conv(f'pre_input_cond_blocks_{stage - 1}_0')(x[..., :start])
    return h, cond

  def _body(
    self,
    h: jax.Array,
    inputs: unet_trunk.BlockInputs,
    stage: int,
    found: dict[str, jax.Array] | None = None,
  ) -> jax.Array:
    return self.walk(
      h,
      inputs,
      suffix=f'_expert_{stage}' if self.use_stage_expert else '',
      # Without one what comes in is the result of the scale's own stem.
      stem=not self.use_split_head,
      found=found,
    )

  def _head(self, h: jax.Array, stage: int) -> jax.Array:
    if not self.use_split_head:
      return self.whole_head(h)
    return self.out(h, f'out_{stage}', self.split_embed_dim_list[stage])

  def _touch_other_scales(
    self, x: jax.Array, inputs: unet_trunk.BlockInputs, stage: int
  ) -> None:
    grid = x.shape[:3]
    features = jnp.zeros((*grid, self.model_channels), self.dtype)
    inputs = dataclasses.replace(inputs, cond=features, train=False)
    if self.use_split_head:
      x = jnp.zeros((*grid, sum(self.split_embed_dim_list)), x.dtype)
    for other in range(len(self.split_embed_dim_list)):
      if other == stage:
        continue
      h, _ = self._stem(x, other)
      if self.use_stage_expert:
        self._body(h, inputs, other)
      if self.use_split_head:
        self._head(features, other)

  def contradictions(self) -> dict[str, bool]:
    split = self.split_embed_dim_list
    return super().contradictions() | {
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
    if self.num_classes is None:
      shape = None
    else:
      shape = x.shape[:1] + (() if self.use_embed else (self.num_classes,))
    self.check_conditions(context, y, shape)
