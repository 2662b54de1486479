"""The denoiser of Frido: one U-Net for all scales of a feature pyramid."""

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.networks import unet_trunk
from pyramid_jax.networks.layers import linear


class PyUNet(unet_trunk.Trunk):
  """Predicts the noise of one scale, gated by the coarser ones.

  davidhalladay/Frido: frido/modules/diffusionmodules/pyunet.py, PyUNetModel;
  the attributes are its constructor's arguments. All scales share the trunk;
  `stage` is the scale. A scale has its own first and last convolution, a
  learned vector beside the noise level's, and, if `use_spade_norm`, the
  features of the coarser scales scale and shift every norm of the trunk.
  Without it they are input channels. x has at least the channels of scales
  0..stage, coarse first; later ones are ignored.
  """

  # Channels of each scale, coarse first.
  split_embed_dim_list: Sequence[int] = ()
  use_embed: bool = False  # whether `y` holds class ids instead of vectors
  num_stage: int = 1  # rows of the learned vectors of scales, 1 for none
  # Whether scales have their own convolutions; else all channels go in and
  # `out_channels` come out at once.
  use_split_head: bool = False
  use_spade_norm: bool = False  # whether norms are gated by the coarser scales
  use_mscond: bool = False  # whether transformers attend to the coarser scales
  use_pos_embed: bool = False  # whether transformers have position embeddings
  use_stage_expert: bool = False  # whether every scale has a trunk of its own
  image_size: int = 32  # longest side of a map with position embeddings
  gate_width: int = 128  # hidden channels of the gates; 128 in the reference

  def max_grid(self) -> int:
    return self.image_size if self.use_pos_embed else 0

  def ends(self) -> Sequence[int] | None:
    return self.split_embed_dim_list if self.use_split_head else None

  def stage_count(self) -> int:
    split = len(self.split_embed_dim_list)
    limits = [split] * (self.use_split_head or self.use_stage_expert)
    limits += [self.num_stage] * (self.num_stage > 1)
    return min(limits, default=1)

  def stage_vectors(self) -> int:
    return self.num_stage if self.num_stage > 1 else 0

  def suffix(self, stage: int) -> str:
    return f'_expert_{stage}' if self.use_stage_expert else ''

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
      raise self.bad_heads(channels)
    return count, width

  def label_shape(self, batch: int) -> tuple[int, ...]:
    if self.use_embed:
      return (batch,)
    assert self.num_classes is not None  # else there are no labels
    return (batch, self.num_classes)

  def embed_label(self, y: jax.Array) -> jax.Array:
    if self.use_embed:
      return super().embed_label(y)
    return linear.Linear(4 * self.model_channels, name='label_emb')(y)

  def stem(
    self, x: jax.Array, stage: int
  ) -> tuple[jax.Array, jax.Array | None]:
    if not self.use_split_head:
      return super().stem(x, stage)
    start = sum(self.split_embed_dim_list[:stage]) if self.use_spade_norm else 0
    stop = sum(self.split_embed_dim_list[: stage + 1])
    h = self.conv(f'pre_input_blocks_{stage}_0')(x[..., start:stop])
    if not start:
      return h, None
    cond = self.conv(f'pre_input_cond_blocks_{stage - 1}_0')(x[..., :start])
    return h, cond

  def init_other_stages(
    self, x: jax.Array, inputs: unet_trunk.BlockInputs, stage: int
  ) -> unet_trunk.BlockInputs:
    grid = x.shape[:3]
    features = jnp.zeros((*grid, self.model_channels), self.dtype)
    if inputs.cond is None:  # gates are made, though this call has none
      inputs = dataclasses.replace(inputs, cond=features)
    if self.use_split_head:
      x = jnp.zeros((*grid, sum(self.split_embed_dim_list)), x.dtype)
    elif not self.use_stage_expert:
      return inputs
    for other in range(len(self.split_embed_dim_list)):
      if other == stage:
        continue
      h, _ = self.stem(x, other)
      if self.use_stage_expert:
        gated = dataclasses.replace(inputs, cond=features, train=False)
        self.walk(h, gated, stage=other, found={})
      if self.use_split_head:
        self.head(features, other)
    return inputs

  def contradictions(self) -> dict[str, bool]:
    split = self.split_embed_dim_list
    return super().contradictions() | {
      'use_split_head needs split_embed_dim_list': (
        self.use_split_head and not split
      ),
      'use_stage_expert needs split_embed_dim_list': (
        self.use_stage_expert and not split
      ),
      'n_embed excludes use_spade_norm and use_split_head': (
        self.n_embed is not None
        and (self.use_spade_norm or self.use_split_head)
      ),
    }

  def check_channels(self, x: jax.Array, stage: int) -> None:
    split = self.split_embed_dim_list
    needed = sum(split[: stage + 1]) if self.use_split_head else 1
    if x.ndim != 4 or x.shape[-1] < needed:
      raise ValueError(
        f'x must be (B, H, W, C) with C >= {needed} at stage {stage}, got '
        f'shape {x.shape}.'
      )
