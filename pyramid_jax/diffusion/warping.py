"""Affine transforms of images without the aliasing of linear interpolation.

As in NVlabs/edm: training/augment.py, with all of the margin that mirroring
allows instead of what the batch needs, which gives the same numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


# The low-pass filter of the wavelet sym6; orthogonal to its even shifts.
_SYM6 = np.array(
  [
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
  ]
)
# Pixels that the filter reaches beyond an image.
_REACH = len(_SYM6) // 4


def _matrix(rows: list[list[Any]], like: jax.Array) -> jax.Array:
  """Returns (B, 3, 3) from two rows of numbers or (B,) arrays."""
  values = [x for row in (*rows, [0.0, 0.0, 1.0]) for x in row]
  columns = [jnp.broadcast_to(x, like.shape) for x in values]
  return jnp.stack(columns, axis=-1).reshape(-1, 3, 3).astype(jnp.float32)


def scaling(x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns (B, 3, 3) from (B,) factors."""
  return _matrix([[x, 0.0, 0.0], [0.0, y, 0.0]], x)


def rotation(angle: jax.Array) -> jax.Array:
  """Returns (B, 3, 3) from (B,) radians, clockwise where y points down."""
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return _matrix([[cos, -sin, 0.0], [sin, cos, 0.0]], angle)


def translation(shift: jax.Array) -> jax.Array:
  """Returns (B, 3, 3) from (B, 2) shifts in x and y."""
  x, y = shift[:, 0], shift[:, 1]
  return _matrix([[1.0, 0.0, x], [0.0, 1.0, y]], x)


def _upsampling(n: int) -> np.ndarray:
  """Returns (2 (3n - 2), n): mirrors n values at both ends, doubles density."""
  padded = np.pad(np.eye(n), ((n - 1, n - 1), (0, 0)), mode='reflect')
  spread = np.zeros((2 * len(padded) - 1, n))
  spread[::2] = padded
  around = np.pad(spread, ((len(_SYM6) // 2,) * 2, (0, 0)))
  windows = [around[m : m + 2 * len(padded)] for m in range(len(_SYM6))]
  return np.tensordot(_SYM6[::-1], np.stack(windows), axes=1)


def _downsampling(n: int) -> np.ndarray:
  """Returns (n, 2 (n + 2 reach)): halves density."""
  result = np.zeros((n, 2 * (n + 2 * _REACH)))
  for k in range(n):
    first = 2 * (k + _REACH) - (len(_SYM6) - 1) // 2
    result[k, first : first + len(_SYM6)] = _SYM6
  return result


def _separable(
  images: jax.Array, rows: np.ndarray, columns: np.ndarray
) -> jax.Array:
  """Applies one linear map along the height and one along the width."""
  return jnp.einsum(
    'ih,jw,bhwc->bijc',
    rows.astype(np.float32),
    columns.astype(np.float32),
    images,
    precision='highest',
  )


def warp(images: jax.Array, inverse: jax.Array) -> jax.Array:
  """Transforms images at twice their density; the outside is mirrored.

  Args:
    images: (B, H, W, C) float32.
    inverse: (B, 3, 3) maps homogeneous places (x, y, 1) in the result to
      those in the source; pixels from the centre, x to the right, y down.

  Returns:
    (B, H, W, C).
  """
  b, height, width, _ = images.shape
  dense = _separable(images, _upsampling(height), _upsampling(width))

  def places(n):
    """Where the values of the dense result lie, pixels from the centre."""
    size = 2 * (n + 2 * _REACH)
    return (np.arange(size) - (size - 1) / 2 + 0.5) / 2

  y, x = np.meshgrid(places(height), places(width), indexing='ij')
  grid = np.stack([x, y, np.ones_like(x)]).astype(np.float32)
  source = jnp.einsum(
    'bij,jhw->bihw', inverse[:, :2], grid, precision='highest'
  )
  # The filter lies half a value to the side of the centre.
  to_index = lambda p, n: 2.0 * p - 0.5 + (n - 1) / 2
  sampled = _bilinear(
    dense,
    to_index(source[:, 0], dense.shape[2]),
    to_index(source[:, 1], dense.shape[1]),
  )
  return _separable(sampled, _downsampling(height), _downsampling(width))


def _bilinear(images: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
  """Interpolates at places (B, h, w) in pixels; 0 outside."""

  def one(channel, x, y):
    return jax.scipy.ndimage.map_coordinates(channel, [y, x], order=1)

  channels = jax.vmap(one, in_axes=(-1, None, None), out_axes=-1)
  return jax.vmap(channels)(images, x, y)
