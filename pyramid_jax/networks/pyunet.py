"""The denoiser of Frido: one U-Net for all scales of a feature pyramid."""

from collections.abc import Sequence

import jax

from pyramid_jax.networks import unet_trunk


class PyUNet(unet_trunk.Trunk):
  """Predicts the noise of one scale, gated by the coarser ones.

  davidhalladay/Frido: frido/modules/diffusionmodules/pyunet.py, PyUNetModel;
  the attributes are its constructor's arguments. All scales share the trunk;
  `stage` is the scale. A scale has its own first and last convolution, and a
  learned vector that is added to the embedding of the noise level. If
  `use_spade_norm`, the features of the coarser scales scale and shift every
  norm of the trunk, else they are input channels. x has at least the channels
  of scales 0..stage, coarse first; later ones are ignored.
  """

  # Channels of each scale, coarse first.
  split_embed_dim_list: Sequence[int] = ()
  num_stage: int = 1  # rows of the learned vectors of scales, 1 for none
  use_spade_norm: bool = False  # whether norms are gated by the coarser scales
  use_mscond: bool = False  # whether transformers attend to the coarser scales
  use_embed: bool = True  # whether `y` holds class ids, not vectors
  # Whether scales have their own convolutions; else all channels go in and
  # `out_channels` come out at once.
  use_split_head: bool = True
  use_stage_expert: bool = False  # whether every scale has a trunk of its own
  gate_width: int = 128  # hidden channels of the gates; 128 in the reference

  def ends(self) -> Sequence[int] | None:
    return self.split_embed_dim_list if self.use_split_head else None

  def own_stages(self) -> int:
    is_any = self.use_split_head or self.use_stage_expert
    return len(self.split_embed_dim_list) if is_any else 0

  def suffix(self, stage: int) -> str:
    return f'_expert_{stage}' if self.use_stage_expert else ''

  def stage_vectors(self) -> int:
    return self.num_stage if self.num_stage > 1 else 0

  def heads(self, channels: int, up: bool = False) -> tuple[int, int]:
    """Returns number and width of the heads of an attention, `up` or down.

    In the official constructor `legacy` is a live assignment: it gives
    transformers a single head whatever the two counts say (so do the published
    models), and self-attention by `num_heads` one head on the way down.
    """
    by_width = self.num_head_channels != -1
    if self.legacy and (self.use_spatial_transformer or not (up or by_width)):
      return 1, channels
    return super().heads(channels, up)

  def channels(self, stage: int) -> int:
    return sum(self.split_embed_dim_list[: stage + 1])

  def stem(
    self, x: jax.Array, stage: int
  ) -> tuple[jax.Array, jax.Array | None]:
    if not self.use_split_head:
      return super().stem(x, stage)
    stop = self.channels(stage)
    start = self.channels(stage - 1) if self.use_spade_norm else 0
    h = self.conv(f'pre_input_blocks_{stage}_0')(x[..., start:stop])
    if not start:
      return h, None
    cond = self.conv(f'pre_input_cond_blocks_{stage - 1}_0')(x[..., :start])
    return h, cond

  def contradictions(self) -> dict[str, bool]:
    is_any = self.use_split_head or self.use_stage_expert
    return super().contradictions() | {
      'channel_mult must start with 1': self.channel_mult[0] != 1,
      'use_split_head and use_stage_expert need split_embed_dim_list': (
        is_any and not self.split_embed_dim_list
      ),
      'n_embed excludes use_spade_norm and use_split_head': (
        self.n_embed is not None
        and (self.use_spade_norm or self.use_split_head)
      ),
    }

  def check_channels(self, x: jax.Array, stage: int) -> None:
    needed = self.channels(stage) if self.use_split_head else 1
    if x.ndim != 4 or x.shape[-1] < needed:
      raise ValueError(
        f'x must be (B, H, W, C) with C >= {needed} at stage {stage}, got '
        f'shape {x.shape}.'
      )
