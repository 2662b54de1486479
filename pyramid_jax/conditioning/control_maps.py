"""Maps that control a network place by place, at the grid of a stage."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import resampling


Batch = Mapping[str, jax.Array]

# By kind, the keys of a batch that it reads, (B, H, W) each but the image.
KEYS = {
  'edges': ('edges',),
  'mask': ('mask',),
  'depth': ('mask',),
  'inpaint': ('image', 'inpaint_mask'),
  'low_resolution': ('lr_image',),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlMap:
  """One kind of map, made from a batch.

  'edges' is one channel in [0, 1], the strongest edge of a cell; 'depth' a map
  of one channel with values up to 255, the mean of a cell; 'mask' a semantic
  map, one channel for every class, the share of a cell; 'inpaint' the known
  part of an image in [-1, 1], 0 elsewhere, and a mask of cells that are not
  known as a whole; 'low_resolution' an image of three channels in [-1, 1] that
  was enlarged, the mean of a cell.

  Attributes:
    kind: a key of `KEYS`.
    classes: the classes of a semantic map, 0 included.
  """

  kind: str
  classes: int = 0

  def __post_init__(self):
    if self.kind not in KEYS:
      raise ValueError(
        f'the control map is {self.kind!r}, must be one of {", ".join(KEYS)}'
      )
    if self.kind == 'mask' and self.classes < 1:
      raise ValueError(
        f"the control map 'mask' has {self.classes} classes, must be at least 1"
      )

  @property
  def keys(self) -> tuple[str, ...]:
    """The keys of a batch that are read."""
    return KEYS[self.kind]

  def example(self, size: int) -> Batch:
    """Returns one row of zeros of `keys`, of images of size x size."""
    shape = (1, size, size)
    image = dict.fromkeys(('image', 'lr_image'), jnp.zeros((*shape, 3)))
    maps = {key: jnp.zeros(shape, jnp.uint8) for key in self.keys}
    return {key: image.get(key, x) for key, x in maps.items()}

  @property
  def channels(self) -> int:
    """Channels of the result."""
    channels = {'mask': self.classes, 'inpaint': 4, 'low_resolution': 3}
    return channels.get(self.kind, 1)

  def __call__(self, batch: Batch, size: int) -> jax.Array:
    """Returns the map at a grid, (B, size, size, channels) float32.

    Args:
      batch: with `keys`; edges may be uint8, 255 = edge.
      size: the length of a side, which divides that of the map, else
        ValueError.
    """
    first, *others = (batch[key] for key in self.keys)
    side = first.shape[1]
    if side % size or first.shape[2] != side:
      raise ValueError(
        f'the control map has shape {first.shape}, must be a square whose'
        f' side {size} divides'
      )
    factor = side // size
    if self.kind == 'edges':
      top = 255 if first.dtype == jnp.uint8 else 1
      edges = first[..., None].astype(jnp.float32) / top
      return resampling.max_pool(edges, factor)
    if self.kind == 'depth':
      values = first[..., None].astype(jnp.float32) / 255.0
      return resampling.average_pool(values, factor)
    if self.kind == 'mask':
      one_hot = jax.nn.one_hot(first, self.classes, dtype=jnp.float32)
      return resampling.average_pool(one_hot, factor)
    if self.kind == 'low_resolution':
      return resampling.average_pool(first.astype(jnp.float32), factor)
    hole = (others[0][..., None] > 0).astype(jnp.float32)
    hole = resampling.max_pool(hole, factor)
    known = resampling.average_pool(first.astype(jnp.float32), factor)
    return jnp.concatenate([known * (1 - hole), hole], axis=-1)
