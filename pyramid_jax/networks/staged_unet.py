"""One U-Net for all resolutions of a pyramid."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pyramid_jax.networks import unet
from pyramid_jax.networks import unet_trunk


class StagedUNet(unet.UNet):
  """A U-Net whose stages share all but their ends.

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

  def init_other_stages(
    self, x: jax.Array, inputs: unet_trunk.BlockInputs, stage: int
  ) -> unet_trunk.BlockInputs:
    for other, channels in enumerate(self.stage_in):
      if other != stage:
        h, _ = self.stem(jnp.zeros((*x.shape[:3], channels), x.dtype), other)
        self.head(h, other)
    return inputs

  def contradictions(self) -> dict[str, bool]:
    return super().contradictions() | {
      'stage_in and stage_out must be of as many stages': (
        len(self.stage_in) != len(self.stage_out) or not self.stage_in
      )
    }
