"""Changes of the spatial size of (B, H, W, C) arrays, without parameters."""

from collections.abc import Iterable
from collections.abc import Sequence
import functools
import operator

from einops import rearrange
from einops import repeat
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np


def wide(x: jax.Array) -> jax.Array:
  """Returns x in float32, or wider if it is: sums need the digits."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes (B, H, W, C) to (B, *size, C) by nearest neighbours.

  Output pixel i is input pixel floor(i * in / out), as in torch's
  interpolate(mode='nearest').
  """
  for axis, out in zip((1, 2), size, strict=True):
    x = _nearest_axis(x, axis, out)
  return x


def _nearest_axis(x: jax.Array, axis: int, out: int) -> jax.Array:
  size = x.shape[axis]
  if size == out:
    return x
  if size % out == 0:  # slices and repeats fuse, a gather does not
    return lax.slice_in_dim(x, 0, None, size // out, axis)
  if out % size == 0:
    return jnp.repeat(x, out // size, axis, total_repeat_length=out)
  return jnp.take(x, np.arange(out) * size // out, axis)


def enlarge(x: jax.Array, factor: int = 2) -> jax.Array:
  """Repeats pixels of (B, H, W, C) to (B, factor * H, factor * W, C)."""
  # One copy instead of one an axis.
  return repeat(x, 'b h w c -> b (h i) (w j) c', i=factor, j=factor)


def average_pool(x: jax.Array, factor: int = 2) -> jax.Array:
  """Averages factor x factor cells in float32, dropping a remainder.

  Maps (B, H, W, C) to (B, H // factor, W // factor, C) of the same dtype.
  """
  window = (1, factor, factor, 1)
  total = lax.reduce_window(wide(x), 0.0, lax.add, window, window, 'VALID')
  return (total / factor**2).astype(x.dtype)


def filtered_half(
  x: jax.Array, taps: Sequence[float], padding: int
) -> jax.Array:
  """Filters (B, H, W, C) along both axes and keeps every second pixel.

  NVlabs/edm: training/networks.py, Conv2d with `down`. A side of n pixels
  becomes (n + 2 * padding - len(taps)) // 2 + 1.

  Args:
    x: the map.
    taps: weights of neighbours, which are divided by their sum.
    padding: zeros at all four sides.
  """
  weights = [tap / sum(taps) for tap in taps]
  for axis in (1, 2):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (padding, padding)
    wider = jnp.pad(x, widths)
    last = wider.shape[axis] - len(taps) + 1
    x = _weighted(
      lax.slice_in_dim(wider, k, k + last, 2, axis) * weight
      for k, weight in enumerate(weights)
    )
  return x


def _weighted(parts: Iterable[jax.Array]) -> jax.Array:
  return functools.reduce(operator.add, parts)


def filtered_double(x: jax.Array, taps: Sequence[float]) -> jax.Array:
  """Doubles the sides of (B, H, W, C): zeros between pixels, then a filter.

  NVlabs/edm: training/networks.py, Conv2d with `up`. `taps` has an even number
  of weights, which are divided by half of their sum. A row of new pixels 2 i
  and 2 i + 1 is computed for each of the old ones, without the zeros.
  """
  padding = (len(taps) - 1) // 2
  for axis in (1, 2):
    side = x.shape[axis]
    widths = [(0, 0)] * x.ndim
    widths[axis] = (len(taps), len(taps))
    wider = jnp.pad(x, widths)
    phases = []
    for phase in (0, 1):
      places = range((padding + phase) % 2, len(taps), 2)
      starts = [len(taps) + (padding + phase - k) // 2 for k in places]
      phases.append(
        _weighted(
          lax.slice_in_dim(wider, at, at + side, 1, axis)
          * (2 * taps[k] / sum(taps))
          for k, at in zip(places, starts, strict=True)
        )
      )
    shape = (*x.shape[:axis], 2 * side, *x.shape[axis + 1 :])
    x = jnp.stack(phases, axis + 1).reshape(shape)
  return x


def max_pool(x: jax.Array, factor: int = 2) -> jax.Array:
  """Takes the largest of every factor x factor cell, dropping a remainder.

  Maps (B, H, W, C) floating to (B, H // factor, W // factor, C).
  """
  window = (1, factor, factor, 1)
  return lax.reduce_window(x, -jnp.inf, lax.max, window, window, 'VALID')


def space_to_depth(x: jax.Array, cell: int) -> jax.Array:
  """Makes the pixels of cell x cell squares channels of one position.

  Maps (B, H, W, C) to (B, H / cell, W / cell, cell * cell * C), ordered (row,
  column, channel); cell divides both sides.
  """
  return rearrange(x, 'b (h i) (w j) c -> b h w (i j c)', i=cell, j=cell)


def depth_to_space(x: jax.Array, cell: int) -> jax.Array:
  """Undoes `space_to_depth`, to (B, cell * H, cell * W, C / cell ** 2)."""
  return rearrange(x, 'b h w (i j c) -> b (h i) (w j) c', i=cell, j=cell)


def bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes (B, H, W, C) to (B, *size, C) linearly, without antialiasing.

  Matches torch's interpolate(mode='bilinear', align_corners=False).
  """
  if x.shape[1:3] == size:
    return x
  shape = (x.shape[0], *size, x.shape[-1])
  return jax.image.resize(x, shape, 'bilinear', antialias=False)


def cubic_weights(
  inputs: int, outputs: int, scale: float | None = None
) -> np.ndarray:
  """Returns the (outputs, inputs) float64 matrix of a resize along one axis.

  Cubic with a = -0.75, without antialiasing, as torch's interpolate(mode=
  'bicubic', align_corners=False) and OpenCV; beyond an edge lies its pixel.
  An output pixel is `scale` input pixels wide, inputs / outputs if None.
  """
  scale = inputs / outputs if scale is None else scale
  source = (np.arange(outputs) + 0.5) * scale - 0.5
  taps = np.floor(source).astype(int)[:, None] - 1 + np.arange(4)
  x = np.abs(source[:, None] - taps)
  near = ((1.25 * x - 2.25) * x) * x + 1
  far = ((-0.75 * x + 3.75) * x - 6) * x + 3
  values = np.where(x <= 1, near, np.where(x < 2, far, 0))
  matrix = np.zeros((outputs, inputs))
  rows = np.arange(outputs)[:, None]
  np.add.at(matrix, (rows, taps.clip(0, inputs - 1)), values)
  return matrix


def from_corner(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes (B, H, W, C) float32 to (B, *size, C) as TensorFlow 1 did.

  Linearly, without antialiasing; output pixel i is at i * in / out, whose
  corner is that of the input (resize_bilinear, align_corners=False).
  """
  for axis in (2, 1):  # the order of that code
    x = _from_corner(x, axis, size[axis - 1])
  return x


def _from_corner(x: jax.Array, axis: int, out: int) -> jax.Array:
  size = x.shape[axis]
  if size == out:
    return x
  place = np.arange(out, dtype=np.float32) * np.float32(size / out)
  low = place.astype(np.int32)
  high = np.minimum(low + 1, size - 1)
  part = np.expand_dims(place - low, [a for a in range(4) if a != axis])
  below, above = jnp.take(x, low, axis), jnp.take(x, high, axis)
  return below + (above - below) * part
