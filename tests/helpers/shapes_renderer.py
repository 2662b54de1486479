"""Reference images of `shapes` scenes, in NumPy: one object at a time.

Written apart from `render`, so that one checks the other. Only the pixels
around an object are visited.
"""

import numpy as np

from pyramid_jax.data.synthetic import scenes


SPEC = ('labels', 'geometry', 'background', 'texture')


def spec_arrays(spec: scenes.Scenes) -> dict[str, np.ndarray]:
  """Returns what `render.image` and `render.maps` read of scenes."""
  return {key: getattr(spec, key) for key in SPEC}


def distance(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Returns signed distances to one shape in half sizes, negative inside."""
  if shape == 0:
    return np.sqrt(u**2 + v**2) - 1
  if shape == 1:
    return np.maximum(np.abs(u), np.abs(v)) - 1
  if shape == 2:
    slope = (2 * np.abs(u) - v - 1) / np.float32(np.sqrt(5))
    return np.maximum(v - 1, slope)
  arm = np.float32(scenes.ARM)
  lying = np.maximum(np.abs(u) - 1, np.abs(v) - arm)
  standing = np.maximum(np.abs(u) - arm, np.abs(v) - 1)
  return np.minimum(lying, standing)


def background(kind: int, texture: np.ndarray, size: int) -> np.ndarray:
  """Returns one (size, size, 3) float32 texture in [0, 1]."""
  t = ((np.arange(size) + 0.5) / size).astype(np.float32)
  x, y = np.meshgrid(t, t)
  base, cycles, phase, phase2 = texture[:3], *texture[3:6]
  direction, axis = texture[6:]
  along, across = (y, x) if axis else (x, y)
  turn = np.float32(2 * np.pi)
  name = scenes.BACKGROUNDS[kind]
  if name == 'gradient':
    dx, dy = np.cos(direction), np.sin(direction)
    ramp = dx * (2 * along - 1) + dy * (2 * across - 1)
    wave = ramp / (abs(dx) + abs(dy))
  elif name == 'stripes':
    wave = np.sin(turn * cycles * along + phase)
  elif name == 'checks':
    wave = np.sin(turn * cycles * along + phase)
    wave = wave * np.sin(turn * cycles * across + phase2)
  else:
    bend = 2 * np.sin(turn * across + phase2)
    wave = np.sin(turn * cycles * along + phase + bend)
  return base + np.float32(scenes.TEXTURE_AMPLITUDE) * wave[..., None]


def _crop(box: np.ndarray, size: int) -> tuple[slice, slice]:
  """Returns the rows and columns that an object can touch, edges included."""
  low = np.floor(box[:2] * size).astype(int) - 2
  high = np.ceil(box[2:] * size).astype(int) + 2
  low, high = np.clip(low, 0, size), np.clip(high, 0, size)
  return slice(low[1], high[1]), slice(low[0], high[0])


def render(spec: scenes.Scenes, size: int) -> dict[str, np.ndarray]:
  """Renders scenes.

  Args:
    spec: B scenes.
    size: px of a side.

  Returns:
    `image` (B, size, size, 3) uint8; `instance` int32, `mask` uint8 and `edge`
    uint8, (B, size, size) each, as `render.maps` defines them.
  """
  images = np.empty((len(spec), size, size, 3), np.uint8)
  instances = np.zeros((len(spec), size, size), np.int32)
  masks = np.empty((len(spec), size, size), np.uint8)
  edges = np.empty((len(spec), size, size), np.uint8)
  t = ((np.arange(size) + 0.5) / size).astype(np.float32)
  for b in range(len(spec)):
    picture = background(spec.background[b], spec.texture[b], size)
    edge = np.zeros((size, size), np.float32)
    masks[b] = scenes.THINGS + 1 + spec.background[b]
    for i in range(spec.n_boxes[b]):
      crop = _crop(spec.boxes[b, i], size)
      shape, colour = divmod(spec.labels[b, i] - 1, len(scenes.COLOURS))
      cx, cy, side, rotation = spec.geometry[b, i]
      half = side / 2
      dx, dy = np.meshgrid(t[crop[1]] - cx, t[crop[0]] - cy)
      c, s = np.cos(rotation) / half, np.sin(rotation) / half
      d = distance(shape, c * dx + s * dy, c * dy - s * dx) * half * size
      alpha = np.clip(np.float32(0.5) - d, 0, 1)
      target = picture[crop]
      target += alpha[..., None] * (scenes.PALETTE[colour] - target)
      instances[b][crop][d < 0] = i + 1
      masks[b][crop][d < 0] = spec.labels[b, i]
      edge[crop] = np.maximum(
        edge[crop] * (1 - alpha), np.clip(1 - np.abs(d), 0, 1)
      )
    images[b] = np.round(np.clip(picture, 0, 1) * 255)
    edges[b] = np.round(255 * edge)
  return {'image': images, 'instance': instances, 'mask': masks, 'edge': edges}
