"""ControlNet: a trained branch that conditions a frozen U-Net on a map.

arXiv:2302.05543. The branch is a copy of the way down and of the middle of a
U-Net. It takes what the U-Net takes and a control map; its results are added to
the skips and to the middle of the U-Net, through convolutions that start as
zeros: at first it changes nothing.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any
from typing import TypeVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import unet
from pyramid_jax.networks import unet_trunk
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import resampling


HINT_WIDTHS = (32, 64)  # between the map and the first features


class Branch(unet_trunk.Trunk):
  """Makes a branch of the U-Net that a class also derives from.

  `class ControlX(Branch, X)` is called as X is, with the control map as
  `control`, and returns what X takes as `control`: a list of what is added to
  the skips, finest first, and to the middle.
  """

  hint_channels: int = 1  # The channels of the control map.
  # How many times finer than the first features the control map may be; more
  # than 1 where the U-Net takes pixels as channels. Each has its own first
  # convolutions.
  cells: Sequence[int] = (1,)

  def walk(
    self,
    h: jax.Array,
    inputs: unet_trunk.BlockInputs,
    found: dict[str, jax.Array],
    control: Any = None,
  ) -> list[jax.Array]:
    cell = self._cell(h, control)
    if self.is_initializing():
      for other in set(self.cells) - {cell}:
        self._hint(jnp.zeros(self._map_shape(h, other)), other)
    h = h + self._hint(control, cell)
    skips, h = self.descend(h, inputs, found)
    fields: dict[str, Any] = {'dtype': self.dtype, **affine.ZEROS}
    return [
      affine.Conv(x.shape[-1], 1, name=f'zero_{i}', **fields)(x)
      for i, x in enumerate([*skips, h])
    ]

  def head(self, h: Any, stage: int) -> Any:
    """Returns h: a branch ends where the way up would begin."""
    return h

  def _cell(self, h: jax.Array, control: jax.Array | None) -> int:
    got = None if control is None else control.shape
    shapes = [self._map_shape(h, cell) for cell in self.cells]
    if got not in shapes:
      raise ValueError(
        'the control map must be of shape'
        f' {" or ".join(map(str, shapes))}, got {got}.'
      )
    return self.cells[shapes.index(got)]

  def _map_shape(self, h: jax.Array, cell: int) -> tuple[int, ...]:
    b, height, width, _ = h.shape
    return (b, cell * height, cell * width, self.hint_channels)

  def _hint(self, control: jax.Array, cell: int) -> jax.Array:
    x = resampling.space_to_depth(control, cell)
    for i, width in enumerate(HINT_WIDTHS):
      name = f'hint_{cell}_{i}'
      x = nn.silu(affine.Conv(width, dtype=self.dtype, name=name)(x))
    return self.conv(f'hint_{cell}_{len(HINT_WIDTHS)}')(x)


class ControlUNet(Branch, unet.UNet):
  """The branch of a `unet.UNet`."""


class ControlStagedUNet(Branch, unet.StagedUNet):
  """The branch of a `unet.StagedUNet`, shared by its stages."""


B = TypeVar('B', bound=Branch)


def branch(
  kind: type[B],
  base: unet_trunk.Trunk,
  hint_channels: int,
  cells: Sequence[int] = (1,),
) -> B:
  """Returns the branch of the U-Net `base`, of whose class `kind` derives."""
  fields = {
    field.name: getattr(base, field.name)
    for field in dataclasses.fields(base)
    if field.init and field.name not in ('parent', 'name')
  }
  return kind(**fields, hint_channels=hint_channels, cells=cells)


def weighted(
  control: Sequence[jax.Array], weight: jax.typing.ArrayLike
) -> list[jax.Array]:
  """Returns the results of a branch times a weight (): 0 = off, 1 = trained."""
  return [(jnp.asarray(weight) * x).astype(x.dtype) for x in control]


def summed(controls: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
  """Returns what several branches of one U-Net add together."""
  return [functools.reduce(jnp.add, x) for x in zip(*controls, strict=True)]
