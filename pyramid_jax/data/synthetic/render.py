"""The images of `shapes` scenes, in JAX: full frame, any resolution.

Coverage comes from signed distances, so that edges are smooth and the same
scene looks the same at every resolution.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax.conditioning import layout
from pyramid_jax.data.synthetic import scenes


Arrays = Mapping[str, jax.Array]

SPEC = ('labels', 'geometry', 'background', 'texture')  # what is drawn


def distance(
  shape: layout.Array, u: layout.Array, v: layout.Array
) -> layout.Array:
  """Returns signed distances in half sizes, negative inside.

  NumPy in, NumPy out; JAX arrays may be traced.

  Args:
    shape: integers that broadcast to u, places in `scenes.SHAPES`.
    u: coordinates to the right, in half sizes, in the frame of the shape.
    v: coordinates downwards.
  """
  xp = layout.array_module(u, v)
  u, v2 = xp.abs(u), xp.abs(v)
  circle = xp.sqrt(u * u + v2 * v2) - 1
  square = xp.maximum(u, v2) - 1
  triangle = xp.maximum(v - 1, (2 * u - v - 1) * 5**-0.5)
  cross = xp.minimum(
    xp.maximum(u - 1, v2 - scenes.ARM), xp.maximum(u - scenes.ARM, v2 - 1)
  )
  return xp.where(
    shape < 2,
    xp.where(shape == 0, circle, square),
    xp.where(shape == 2, triangle, cross),
  )


def background(kind: jax.Array, texture: jax.Array, size: int) -> jax.Array:
  """Returns (B, size, size, 3) textures in [0, 1].

  Every texture is a sum of two outer products of functions of x and of y.
  """
  t = (jnp.arange(size) + 0.5) / size
  cycles, phase, phase2, direction, axis = (
    texture[:, i, None] for i in range(3, 8)
  )
  kind = kind[:, None]
  along = 2 * jnp.pi * cycles * t + phase
  across = 2 * jnp.pi * cycles * t + phase2
  bend = 2 * jnp.sin(2 * jnp.pi * t + phase2)
  dx, dy = jnp.cos(direction), jnp.sin(direction)
  norm = jnp.abs(dx) + jnp.abs(dy)
  one, zero, ramp = jnp.ones_like(along), jnp.zeros_like(along), 2 * t - 1

  def pick(*factors: jax.Array) -> jax.Array:
    return jnp.select([kind == i for i in range(4)], factors)

  u1 = pick(dx / norm * ramp, jnp.sin(along), jnp.sin(along), jnp.sin(along))
  v1 = pick(one, one, jnp.sin(across), jnp.cos(bend))
  u2 = pick(one, zero, zero, jnp.cos(along))
  v2 = pick(dy / norm * ramp, zero, zero, jnp.sin(bend))
  swap = axis > 0.5
  x1, y1 = jnp.where(swap, v1, u1), jnp.where(swap, u1, v1)
  x2, y2 = jnp.where(swap, v2, u2), jnp.where(swap, u2, v2)
  wave = x1[:, None] * y1[:, :, None] + x2[:, None] * y2[:, :, None]
  wave = scenes.TEXTURE_AMPLITUDE * wave
  return texture[:, None, None, :3] + wave[..., None]


def _objects(spec: Arrays) -> dict[str, jax.Array]:
  """Splits the arrays of a scene into leaves of leading axis N, for scan."""
  labels = spec['labels']
  thing = jnp.maximum(labels - 1, 0)
  cx, cy, side, rotation = jnp.moveaxis(spec['geometry'], -1, 0)
  leaves = {
    'valid': labels > 0,
    'label': labels,
    'shape': thing // len(scenes.COLOURS),
    'colour': jnp.asarray(scenes.PALETTE)[thing % len(scenes.COLOURS)],
    'cx': cx,
    'cy': cy,
    # Padding has no side; any positive one keeps the division finite.
    'half': jnp.where(labels > 0, side / 2, 1.0),
    'cos': jnp.cos(rotation),
    'sin': jnp.sin(rotation),
  }
  return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), leaves)


def _pixel_distance(item: Arrays, size: int) -> jax.Array:
  """Returns (B, size, size) signed distances in pixels to one object."""
  t = (jnp.arange(size) + 0.5) / size
  wide = {k: item[k][:, None, None] for k in ('half', 'cos', 'sin', 'shape')}
  dx = (t - item['cx'][:, None])[:, None] / wide['half']
  dy = (t - item['cy'][:, None])[:, :, None] / wide['half']
  u = wide['cos'] * dx + wide['sin'] * dy
  v = wide['cos'] * dy - wide['sin'] * dx
  d = distance(wide['shape'], u, v) * wide['half'] * size
  return jnp.where(item['valid'][:, None, None], d, jnp.inf)


def image(spec: Arrays, size: int) -> jax.Array:
  """Returns (B, size, size, 3) float32 images of whole grey levels, 0..255.

  `spec` has `labels` (B, N), `geometry` (B, N, 4), `background` (B,) and
  `texture` (B, 8) of `scenes.Scenes`.
  """

  def paint(canvas: jax.Array, item: Arrays) -> tuple[jax.Array, None]:
    alpha = jnp.clip(0.5 - _pixel_distance(item, size), 0, 1)[..., None]
    colour = item['colour'][:, None, None]
    return canvas + alpha * (colour - canvas), None

  start = background(spec['background'], spec['texture'], size)
  canvas, _ = jax.lax.scan(paint, start, _objects(spec))
  return jnp.round(jnp.clip(canvas, 0, 1) * 255)


def shrink(images: Any, factor: int) -> Any:
  """Returns the rounded means of blocks of `factor` x `factor` pixels.

  `images` are (..., H, W, C) grey levels 0..255, NumPy or JAX.
  """
  *lead, height, width, channels = images.shape
  rows, columns = height // factor, width // factor
  blocks = images.reshape(*lead, rows, factor, columns, factor, channels)
  return blocks.mean((-4, -2)).round()


def maps(spec: Arrays, size: int) -> dict[str, jax.Array]:
  """Returns the label maps of scenes, given as for `image`.

  Each is (B, size, size): `instance` int32, 0 or 1 + the object's place; `mask`
  uint8, 1..24 things and 25..28 backgrounds; `edge` uint8 0..255, the visible
  outlines.
  """
  b, n = spec['labels'].shape

  def paint(carry, inputs):
    instance, mask, edge = carry
    place, item = inputs
    d = _pixel_distance(item, size)
    inside = d < 0
    label = item['label'][:, None, None]
    hidden = edge * (1 - jnp.clip(0.5 - d, 0, 1))
    edge = jnp.maximum(hidden, jnp.clip(1 - jnp.abs(d), 0, 1))
    instance = jnp.where(inside, place + 1, instance)
    return (instance, jnp.where(inside, label, mask), edge), None

  shape = (b, size, size)
  stuff = scenes.THINGS + 1 + spec['background'][:, None, None]
  start = (
    jnp.zeros(shape, jnp.int32),
    jnp.broadcast_to(stuff, shape).astype(jnp.int32),
    jnp.zeros(shape, jnp.float32),
  )
  (instance, mask, edge), _ = jax.lax.scan(
    paint, start, (jnp.arange(n), _objects(spec))
  )
  return {
    'instance': instance,
    'mask': mask.astype(jnp.uint8),
    'edge': jnp.round(255 * edge).astype(jnp.uint8),
  }
