"""Holes of images, for inpainting: strokes of wide brushes, and boxes.

In the manner of LaMa (arXiv:2109.07161), whose masks the inpainting model of
LDM was trained with: chains of strokes, rectangles, or both. Holes are few
numbers on the host; the device turns them into a mask of any resolution.
"""

import einops
import numpy as np

from pyramid_jax.conditioning import layout


Array = layout.Array

CHAINS = 3  # The most chains of strokes of one brush.
STEPS = 4  # strokes of a chain, at most
BOXES = 3
RADIUS = (0.04, 0.12)  # The radius of a brush over the image's side.
LENGTH = (0.1, 0.5)  # The length of a stroke.
SIDE = (0.15, 0.5)  # The side of a box.
_CHAIN_UNIFORMS = 4 + 2 * STEPS
# Uniform numbers of one image: kind, counts, then what each piece needs.
UNIFORMS = 3 + CHAINS * _CHAIN_UNIFORMS + 4 * BOXES


def _between(bounds: tuple[float, float], u: np.ndarray) -> np.ndarray:
  return bounds[0] + (bounds[1] - bounds[0]) * u


def _chains(u: np.ndarray, count: np.ndarray) -> np.ndarray:
  """Returns (B, CHAINS * STEPS, 5) strokes; the first `count` chains count."""
  corner, steps, radius = u[..., :2], u[..., 2], u[..., 3]
  turns = einops.rearrange(u[..., 4:], 'b c (s two) -> b c s two', two=2)
  angle, length = 2 * np.pi * turns[..., 0], _between(LENGTH, turns[..., 1])
  moves = length[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
  radius = np.where(
    np.arange(CHAINS) < count[:, None], _between(RADIUS, radius), 0
  )
  used = np.arange(STEPS) < 1 + np.floor(STEPS * steps)[..., None]
  radius = np.where(used, radius[..., None], 0)
  pieces = []
  for step in range(STEPS):
    end = np.clip(corner + moves[:, :, step], 0, 1)
    piece = [corner, end, radius[:, :, step, None]]
    pieces.append(np.concatenate(piece, -1))
    corner = end
  return np.concatenate(pieces, 1)


def sample(u: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the holes of images.

  Args:
    u: (B, UNIFORMS) in [0, 1).

  Returns:
    hole_strokes: (B, CHAINS * STEPS, 5) float32, both ends x0, y0, x1, y1 and
      the radius of the brush as parts of the image; radius 0 = no stroke.
    hole_boxes: (B, BOXES, 4) float32 x0, y0, x1, y1; no area = no box.
  """
  kind = np.floor(3 * u[:, 0])  # strokes, boxes, both
  chains = np.where(kind != 1, 1 + np.floor(CHAINS * u[:, 1]), 0)
  boxes = np.where(kind != 0, 1 + np.floor(BOXES * u[:, 2]), 0)
  split = 3 + CHAINS * _CHAIN_UNIFORMS
  strokes = _chains(u[:, 3:split].reshape(len(u), CHAINS, -1), chains)
  v = u[:, split:].reshape(len(u), BOXES, 4)
  side = _between(SIDE, v[..., 2:])
  side = side * (np.arange(BOXES) < boxes[:, None])[..., None]
  low = (1 - side) * v[..., :2]
  return {
    'hole_strokes': strokes.astype(np.float32),
    'hole_boxes': np.concatenate([low, low + side], -1).astype(np.float32),
  }


def draw(strokes: Array, boxes: Array, size: int) -> Array:
  """Returns (B, size, size) uint8 masks, 1 = hole; see `sample`.

  NumPy in, NumPy out; JAX arrays may be traced.

  Args:
    strokes: (B, S, 5).
    boxes: (B, N, 4).
    size: px of a side.
  """
  xp = layout.array_module(strokes, boxes)
  t = (xp.arange(size, dtype=np.float32) + np.float32(0.5)) / size
  x, y = t[None, None, :], t[None, :, None]
  hole = xp.zeros((len(strokes), size, size), bool)
  for i in range(strokes.shape[1]):
    x0, y0, x1, y1, radius = (strokes[:, i, k, None, None] for k in range(5))
    dx, dy = x1 - x0, y1 - y0
    length = xp.maximum(dx * dx + dy * dy, np.float32(1e-9))
    part = xp.clip(((x - x0) * dx + (y - y0) * dy) / length, 0, 1)
    off = xp.square(x - x0 - part * dx) + xp.square(y - y0 - part * dy)
    hole = hole | (off < radius * radius)
  for i in range(boxes.shape[1]):
    x0, y0, x1, y1 = (boxes[:, i, k, None, None] for k in range(4))
    hole = hole | ((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1))
  return hole.astype(np.uint8)
