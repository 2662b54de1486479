"""ControlNet: a trained branch that tells a frozen U-Net where things are.

arXiv:2302.05543. The branch is a copy of the way down and of the middle of a
U-Net, begun with its weights. It takes what the U-Net takes and a control map;
what it gives is added to the skips and to the middle of the U-Net, through
convolutions that begin as zeros: at first it changes nothing.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import TypeVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import staged_unet
from pyramid_jax.networks import unet
from pyramid_jax.networks import unet_trunk
from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import resampling


HINT_WIDTHS = (32, 64)  # between the map and the first features
# What the names of a branch's own parameters begin with.
_OWN = ('hint_', 'zero_')


class Branch(unet_trunk.Trunk):
  """Makes a branch of the U-Net that a class also derives from.

  `class ControlX(Branch, X)` is called as X is, with the control map as
  `control`, and returns what X takes as `control`. X must pass `control` on to
  `walk`, and do in `whole_head` what it does with the result of `walk`.

  Attributes, beside those of the U-Net:
    hint_channels: of the control map.
    cells: how many times finer than the grid of `walk` the map may be; more
      than 1 where the U-Net is given pixels as channels. Each has its own
      first convolutions.
  """

  hint_channels: int = 1
  cells: Sequence[int] = (1,)

  def walk(  # type: ignore[override]
    self,
    h: jax.Array,
    inputs: unet_trunk.BlockInputs,
    *,
    control: jax.Array | None = None,
    stem: bool = True,
    found: dict[str, jax.Array] | None = None,
  ) -> list[jax.Array]:
    """Returns what is added to the skips, finest first, and to the middle.

    Args:
      h: (B, H, W, C).
      inputs: of every block.
      control: (B, cell * H, cell * W, hint_channels), cell one of `cells`.
      stem: whether the first entry is a convolution of h.
      found: filled with what comes out of every entry, see
        `unet_trunk.Trunk.walk`.

    Raises:
      ValueError: a map of another size, or none.
    """
    cell = self._cell(h, control)
    if self.is_initializing():
      b, height, width, _ = h.shape
      for other in set(self.cells) - {cell}:
        shape = (b, other * height, other * width, self.hint_channels)
        self._hint(jnp.zeros(shape), other)
    assert control is not None  # see _cell
    hint = self._hint(control, cell)
    skips, h = self.descend(h, inputs, stem=stem, hint=hint, found=found)
    return [self._zero(i, x) for i, x in enumerate([*skips, h])]

  def whole_head(self, h: Any) -> Any:
    """Returns h: a branch ends where the way up would begin."""
    return h

  def _cell(self, h: jax.Array, control: jax.Array | None) -> int:
    b, height, width, _ = h.shape
    got = None if control is None else control.shape
    shapes = [
      (b, c * height, c * width, self.hint_channels) for c in self.cells
    ]
    if got not in shapes:
      raise ValueError(
        'the control map must be of shape'
        f' {" or ".join(map(str, shapes))}, got {got}.'
      )
    return self.cells[shapes.index(got)]

  def _hint(self, control: jax.Array, cell: int) -> jax.Array:
    x = resampling.space_to_depth(control, cell)
    for i, width in enumerate(HINT_WIDTHS):
      name = f'hint_{cell}_{i}'
      x = nn.silu(convolution.Conv(width, dtype=self.dtype, name=name)(x))
    return self.conv(f'hint_{cell}_{len(HINT_WIDTHS)}')(x)

  def _zero(self, place: int, x: jax.Array) -> jax.Array:
    return convolution.Conv(
      x.shape[-1],
      kernel_size=1,
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.zeros,
      name=f'zero_{place}',
    )(x)


class ControlUNet(Branch, unet.UNet):
  """The branch of a `unet.UNet`."""


class ControlStagedUNet(Branch, staged_unet.StagedUNet):
  """The branch of a `staged_unet.StagedUNet`, shared by its stages."""

  def stage_head(self, h: Any, stage: int) -> Any:
    return h


B = TypeVar('B', bound=Branch)


def branch(
  kind: type[B],
  base: unet_trunk.Trunk,
  hint_channels: int,
  cells: Sequence[int] = (1,),
) -> B:
  """Returns the branch of a U-Net.

  Args:
    kind: class of the branch, which derives from that of the U-Net.
    base: the U-Net.
    hint_channels: of the control map.
    cells: see `Branch`.
  """
  fields = {
    field.name: getattr(base, field.name)
    for field in dataclasses.fields(base)
    if field.init and field.name not in ('parent', 'name')
  }
  return kind(**fields, hint_channels=hint_channels, cells=cells)


def from_base(params: Mapping[str, Any], base: Mapping[str, Any]) -> Any:
  """Returns a branch's parameters with the U-Net's where it has them.

  Args:
    params: of the branch, as initialised.
    base: of the U-Net.

  Raises:
    ValueError: the U-Net lacks parameters of which the branch is a copy.
  """
  copied = [name for name in params if not name.startswith(_OWN)]
  absent = [name for name in copied if name not in base]
  if absent:
    raise ValueError(
      f'the base lacks {len(absent)} modules of its branch, the first is'
      f' {absent[0]}: another network.'
    )
  return {**params, **{name: base[name] for name in copied}}


def weighted(
  control: Sequence[jax.Array], weight: jax.typing.ArrayLike
) -> list[jax.Array]:
  """Returns what a branch gives, times a weight.

  Args:
    control: of the branch.
    weight: (), how far the map is obeyed: 0 = not at all, 1 as trained.
  """
  return [(jnp.asarray(weight) * x).astype(x.dtype) for x in control]
