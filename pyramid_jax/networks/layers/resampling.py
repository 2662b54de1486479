"""Changes of the spatial size of (B, H, W, C) arrays, without parameters."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks.layers import precision


def nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes with output pixel i taken from input pixel floor(i * in / out).

  Matches torch's interpolate(mode='nearest'): an integer reduction keeps the
  top-left pixel of each cell, an integer enlargement repeats pixels.

  Args:
    x: (B, H, W, C).
    size: height and width of the result.

  Returns:
    (B, *size, C), of the dtype of x.
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
  """Repeats every pixel `factor` times in both directions.

  Args:
    x: (B, H, W, C).
    factor: at least 1.

  Returns:
    (B, factor * H, factor * W, C).
  """
  b, h, w, c = x.shape
  x = jnp.broadcast_to(
    x[:, :, None, :, None], (b, h, factor, w, factor, c)
  )  # one copy instead of one per axis
  return x.reshape(b, factor * h, factor * w, c)


def average_pool(x: jax.Array, factor: int = 2) -> jax.Array:
  """Averages non-overlapping factor x factor cells, dropping a remainder.

  Args:
    x: (B, H, W, C).
    factor: at least 1.

  Returns:
    (B, H // factor, W // factor, C), averaged in float32, dtype of x.
  """
  window = (1, factor, factor, 1)
  total = lax.reduce_window(
    precision.wide(x), 0.0, lax.add, window, window, 'VALID'
  )
  return (total / factor**2).astype(x.dtype)


def max_pool(x: jax.Array, factor: int = 2) -> jax.Array:
  """Takes the largest of every factor x factor cell, dropping a remainder.

  Args:
    x: (B, H, W, C), floating.
    factor: at least 1.

  Returns:
    (B, H // factor, W // factor, C).
  """
  window = (1, factor, factor, 1)
  return lax.reduce_window(x, -jnp.inf, lax.max, window, window, 'VALID')


def space_to_depth(x: jax.Array, cell: int) -> jax.Array:
  """Makes the pixels of cell x cell squares channels of one position.

  Args:
    x: (B, H, W, C).
    cell: divides both sides.

  Returns:
    (B, H / cell, W / cell, cell * cell * C), ordered (row, column, channel).
  """
  b, h, w, c = x.shape
  x = x.reshape(b, h // cell, cell, w // cell, cell, c)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // cell, w // cell, cell * cell * c)


def depth_to_space(x: jax.Array, cell: int) -> jax.Array:
  """Undoes `space_to_depth`, to (B, cell * H, cell * W, C / cell ** 2)."""
  b, h, w, c = x.shape
  x = x.reshape(b, h, w, cell, cell, c // cell**2)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h * cell, w * cell, c // cell**2)


def bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Resizes by linear interpolation between the centres of pixels.

  Matches torch's interpolate(mode='bilinear', align_corners=False): nothing
  is smoothed on the way down.

  Args:
    x: (B, H, W, C).
    size: height and width of the result.

  Returns:
    (B, *size, C), of the dtype of x.
  """
  if x.shape[1:3] == size:
    return x
  shape = (x.shape[0], *size, x.shape[-1])
  return jax.image.resize(x, shape, 'bilinear', antialias=False)
