"""Scores of what the coarse scales of a pyramid make without the finer ones.

Of a first stage these are reconstructions whose finer latents are 0, of a
generative system the previews of its stages but the last, from the same noise
as the images. They say how much of a score each scale is responsible for.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import cast

import numpy as np

from pyramid_jax import pipeline
from pyramid_jax.evaluation import fid_state
from pyramid_jax.metrics import restoration
from pyramid_jax.metrics import states
from pyramid_jax.systems import system as system_lib


# (finished batch on the mesh, (B,) numbers of the images) -> (B, H, W, 3) uint8
# of each scale but the finest, coarse to fine.
Coarse = Callable[[Mapping[str, Any], np.ndarray], list[np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfScale:
  """Scores of the images of a coarse scale, as a `states.State`."""

  state: states.State  # those of images
  scale: int  # from 0, the coarsest

  def update(self, batch: states.Batch) -> 'OfScale':
    coarse = dataclasses.replace(batch, images=batch.coarse[self.scale])
    return self._with(self.state.update(coarse))

  def merge(self, other: 'OfScale') -> 'OfScale':
    return self._with(self.state.merge(other.state))

  def finish(self) -> list[states.Row]:
    """Returns the rows of the images, `_scale_N` behind their names."""
    name = lambda row: f'{row.name}_scale_{self.scale}'
    rows = [row for row in self.state.finish() if row.name != fid_state.SELF]
    return [dataclasses.replace(row, name=name(row)) for row in rows]

  @property
  def kept(self) -> Mapping[str, states.Kept]:
    return self.state.kept

  @property
  def totals(self) -> states.Columns:
    return self.state.totals

  def restored(
    self, kept: Mapping[str, states.Kept], totals: states.Columns
  ) -> 'OfScale':
    return self._with(self.state.restored(kept, totals))

  def _with(self, state: states.State) -> 'OfScale':
    return dataclasses.replace(self, state=state)


def count(system: system_lib.Trainable) -> int:
  """Returns the number of scales of a system, coarse ones and the finest."""
  if system.outputs == system_lib.RECONSTRUCTIONS:
    return max(1, len(cast(system_lib.Reconstructing, system).codebooks))
  return cast(system_lib.Generative, system).stage_count


def maker(pipe: pipeline.Pipeline, settings: pipeline.Settings) -> Coarse:
  """Returns the function that makes the images of the coarse scales.

  A generative system samples the stages up to each scale anew; smaller
  previews are enlarged by Pillow's bicubic filter.
  """
  coarse = range(count(pipe.system) - 1)
  if pipe.system.outputs == system_lib.RECONSTRUCTIONS:
    return lambda batch, numbers: [
      pipe.reconstruct(batch, len(numbers), scale + 1)[0] for scale in coarse
    ]
  side = cast(system_lib.Generative, pipe.system).image_size
  size = settings.extent.shape or (side, side)

  def preview(
    batch: Mapping[str, Any], numbers: np.ndarray, scale: int
  ) -> np.ndarray:
    extent = dataclasses.replace(settings.extent, last=scale)
    some = dataclasses.replace(settings, extent=extent)
    made = pipe.sample(batch, some, numbers)
    pipe.check_finite(made.finite, some, numbers)
    if made.images.shape[1:3] == size:
      return made.images
    return restoration.bicubic(made.images, size)

  return lambda batch, numbers: [preview(batch, numbers, s) for s in coarse]
