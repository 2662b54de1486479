"""The arrays that condition a network."""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.struct
import jax

from pyramid_jax.diffusion import laplacian_loss
from pyramid_jax.networks.layers import transformer


@flax.struct.dataclass
class Inputs:
  """What a denoiser takes in addition to the state and the noise level.

  Attributes:
    context: (B, L, D) tokens that are attended to, perhaps with places.
    concat: (B, h, w, C) channels on the state's grid, concatenated to it.
    y: (B,) int32 class ids that are embedded with the noise level.
    control: for each ControlNet its maps (B, h, w, C), finest stage first.
    concat_noise: (B,) logarithm of the standard deviation of the noise on
      `concat`, which is embedded with the noise level.
    aspect: (B, 2) logarithms of an image's height and width over those of the
      square of training, which are embedded with the noise level; None where
      all images are such squares.
    prior: the prior of the image, for `laplacian_loss`.
  """

  context: transformer.Context | None = None
  concat: jax.Array | None = None
  y: jax.Array | None = None
  control: tuple[tuple[jax.Array, ...], ...] | None = None
  concat_noise: jax.Array | None = None
  aspect: jax.Array | None = None
  prior: laplacian_loss.Prior | None = None


@flax.struct.dataclass
class Condition:
  """An encoded condition, ready for a sampler.

  Attributes:
    context: the inputs of the B images; empty for an unconditional system.
    null: the inputs of the null condition, for classifier-free guidance; None
      without.
    guide: what samples are guided by: the targets and the strength of a sketch
      (`systems.sketch`), or (B,) classes (`systems.classifier`).
  """

  context: Inputs = flax.struct.field(default_factory=Inputs)
  null: Inputs | None = None
  guide: Any = None

  def map(self, function: Callable[[Inputs], Inputs]) -> 'Condition':
    """Returns the condition with other inputs, of the null condition too."""
    null = None if self.null is None else function(self.null)
    return dataclasses.replace(self, context=function(self.context), null=null)
