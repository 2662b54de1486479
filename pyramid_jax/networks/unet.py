"""The denoisers of LDM and LaDM: U-Nets with attention to a context."""

from collections.abc import Sequence

import jax

from pyramid_jax.networks import unet_trunk


class UNet(unet_trunk.Trunk):
  """Predicts the noise (or what else is learned) of a latent.

  CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py,
  UNetModel; the attributes are its constructor's arguments.
  """

  in_channels: int = 3  # Concatenated conditions are included.

  def channels(self, stage: int) -> int:
    del stage
    return self.in_channels


class StagedUNet(unet_trunk.Trunk):
  """A U-Net for all resolutions of a pyramid, which share all but its ends.

  Every stage has its own first and last convolution and a learned vector that
  is added to the embedding of the noise level. Ours: the report on LaDM
  (arXiv:2411.07126) shows several denoisers; this one is cheaper.
  """

  stage_in: Sequence[int] = ()  # channels of x of each stage, coarse first
  # Channels of the result of each stage, coarse first.
  stage_out: Sequence[int] = ()

  def ends(self) -> Sequence[int]:
    return self.stage_out

  def stage_vectors(self) -> int:
    return len(self.stage_in)

  def channels(self, stage: int) -> int:
    return self.stage_in[stage]

  def stem(
    self, x: jax.Array, stage: int
  ) -> tuple[jax.Array, jax.Array | None]:
    return self.conv(f'stem_{stage}')(x), None

  def contradictions(self) -> dict[str, bool]:
    return super().contradictions() | {
      'stage_in and stage_out must be of as many stages': (
        len(self.stage_in) != len(self.stage_out) or not self.stage_in
      )
    }
