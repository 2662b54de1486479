"""Maps larger than a network was trained for, in overlapping windows.

Windows lie on the batch axis, so that one call of a network serves all of
them. Where they overlap, their outputs are averaged with smaller weights near
their borders. Follows the split-input mode of CompVis/latent-diffusion:
ldm/models/diffusion/ddpm.py, and covers the borders that it leaves out.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling


# Smallest and largest weight of a place in its window, as published; between
# them it is the distance from the window's border, as a part of its side.
LIMITS = (0.01, 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
  """Where the windows of a map lie, row by row; see `tiling`.

  Attributes:
    shape: (H, W) of the map.
    size: (h, w) of a window.
    rows: first row of each row of windows.
    columns: first column of each column of windows.
  """

  shape: tuple[int, int]
  size: tuple[int, int]
  rows: tuple[int, ...]
  columns: tuple[int, ...]

  @property
  def count(self) -> int:
    """L, the number of windows."""
    return len(self.rows) * len(self.columns)

  @property
  def weights(self) -> np.ndarray:
    """(h, w) float64, of every place of a window."""
    height, width = self.size
    inside = np.minimum(_border(height)[:, None], _border(width)[None])
    return np.clip(inside, *LIMITS)

  @property
  def total(self) -> np.ndarray:
    """(H, W) float64, the sum of the weights of all windows."""
    total, weights = np.zeros(self.shape), self.weights
    height, width = self.size
    for row in self.rows:
      for column in self.columns:
        total[row : row + height, column : column + width] += weights
    return total


def tiling(
  shape: tuple[int, int],
  size: int | tuple[int, int],
  stride: int | tuple[int, int],
) -> Tiling:
  """Covers a map with windows.

  Where the stride does not end at the border, one more window does; a window
  larger than the map is the map.

  Args:
    shape: (H, W) of the map.
    size: of a window, one number or (h, w).
    stride: between windows, one number or (rows, columns); ValueError if it
      leaves gaps.
  """
  sizes = (size, size) if isinstance(size, int) else size
  strides = (stride, stride) if isinstance(stride, int) else stride
  sizes = (min(sizes[0], shape[0]), min(sizes[1], shape[1]))
  return Tiling(
    shape=shape,
    size=sizes,
    rows=_starts(shape[0], sizes[0], strides[0]),
    columns=_starts(shape[1], sizes[1], strides[1]),
  )


def _starts(length: int, size: int, stride: int) -> tuple[int, ...]:
  if size < 1 or stride < 1:
    raise ValueError(
      f'windows of {size} every {stride}: both must be at least 1'
    )
  if size < length and stride > size:
    raise ValueError(f'windows of {size} every {stride} leave gaps')
  starts = list(range(0, length - size + 1, stride))
  if starts[-1] + size < length:
    starts.append(length - size)
  return tuple(starts)


def _border(count: int) -> np.ndarray:
  """(N,) the distance from the ends as a part of the length, <= 1/2."""
  if count == 1:  # no border along a side of one place
    return np.array([0.5])
  place = np.arange(count) / (count - 1)
  return np.minimum(place, 1.0 - place)


def windows(x: jax.Array, tiles: Tiling) -> jax.Array:
  """Cuts (B, H, W, C) into (B * L, h, w, C), windows of an image together."""
  if x.shape[1:3] != tiles.shape:
    raise ValueError(
      f'the map is {x.shape[1:3]}, its windows are for {tiles.shape}'
    )
  height, width = tiles.size
  x = jnp.stack([x[:, r : r + height] for r in tiles.rows], axis=1)
  x = jnp.stack([x[..., c : c + width, :] for c in tiles.columns], axis=2)
  return x.reshape(-1, height, width, x.shape[-1])


def merge(patches: jax.Array, tiles: Tiling) -> jax.Array:
  """Averages (B * L, h, w, C) to (B, H, W, C), the inverse of `windows`."""
  count, height, width, channels = patches.shape
  if (height, width) != tiles.size or count % tiles.count:
    raise ValueError(
      f'{count} windows of {(height, width)}, needed are {tiles.count} of'
      f' {tiles.size} an image'
    )
  rows, columns = tiles.rows, tiles.columns
  shape = (-1, len(rows), len(columns), height, width, channels)
  weights = jnp.asarray(tiles.weights, jnp.float32)[..., None]
  x = patches.reshape(shape) * weights
  bands = jnp.zeros((*x.shape[:2], height, tiles.shape[1], channels), x.dtype)
  for j, c in enumerate(columns):
    bands = bands.at[..., c : c + width, :].add(x[:, :, j])
  whole = jnp.zeros((x.shape[0], *tiles.shape, channels), x.dtype)
  for i, r in enumerate(rows):
    whole = whole.at[:, r : r + height].add(bands[:, i])
  return whole / jnp.asarray(tiles.total, jnp.float32)[..., None]


def split(stage: sampling.Stage, tiles: Tiling) -> sampling.Stage:
  """Returns a stage of B maps for one that was built for their B * L windows.

  The network processes all windows as one batch, and its predictions are
  merged; the solver is given whole maps.

  Args:
    stage: with each condition that lies on the map cut by `windows`, and every
      other one repeated L times for each image.
    tiles: the windows of the stage's map.
  """

  def enter(state, normal):
    def cut(shape):
      whole = (shape[0] // tiles.count, *tiles.shape, shape[-1])
      return windows(normal(whole), tiles)

    x, context = stage.enter(state, cut)
    return merge(x, tiles), context

  def over(segment):
    def denoise(x, level, context, first=True):
      found = segment.denoise(windows(x, tiles), level, context, first)
      variance = found.variance
      if variance is not None:
        variance = merge(variance, tiles)
      eps = merge(found.eps, tiles)
      whole = levels_lib.Prediction.from_eps(x, eps, level)
      return whole.replace(variance=variance)

    return dataclasses.replace(segment, denoise=denoise)

  segments = tuple(over(segment) for segment in stage.segments)
  return dataclasses.replace(stage, segments=segments, enter=enter)
