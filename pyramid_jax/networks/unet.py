"""The denoiser of LDM: a U-Net with attention to a context."""

import jax

from pyramid_jax.networks import unet_trunk


class UNet(unet_trunk.Trunk):
  """Predicts the noise (or what else is learned) of a latent.

  CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py,
  UNetModel; the attributes are its constructor's arguments. There is one
  stage, which reads all channels.
  """

  in_channels: int = 3  # of x, conditions that are concatenated to it included

  def heads(self, channels: int, up: bool = False) -> tuple[int, int]:
    """Returns number and width of the heads of an attention.

    The rule of the official constructor. `legacy` matters in two cases only:
    a transformer whose `num_head_channels` does not divide the channels, and
    self-attention with `num_head_channels` = -1 on the way up, which then has
    `num_heads_upsample` heads.
    """
    count, width = self.num_heads, self.num_head_channels
    if self.use_spatial_transformer:
      if width != -1:
        count = channels // width
      if count and (width == -1 or self.legacy):
        width = channels // count
      fits = True  # the projections allow heads that do not fill the channels
    else:
      if width == -1 and self.legacy:
        above = self.num_heads_upsample
        count = above if up and above != -1 else count
        width = channels // count
      else:
        width = channels // count if width == -1 else width
        count = channels // width if width else 0
      fits = count * width == channels
    if not (fits and count > 0 and width > 0):
      raise self.bad_heads(channels)
    return count, width

  def check_channels(self, x: jax.Array, stage: int) -> None:
    channels = self.channels(stage)
    if x.ndim != 4 or x.shape[-1] != channels:
      raise ValueError(
        f'x must be (B, H, W, {channels}) at stage {stage}, got shape'
        f' {x.shape}.'
      )

  def channels(self, stage: int) -> int:
    """Returns the channels that a stage reads."""
    del stage
    return self.in_channels
