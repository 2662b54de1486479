"""The content of the `shapes` scenes: a pure function of (seed, index).

A scene is a few coloured shapes on a textured grey background. Its
specification is hashed from (seed, index) by integer arithmetic alone, so that
it never changes with the version of a library, and every condition and every
measure is computed from it, not from pixels.
"""

import dataclasses

import numpy as np

from pyramid_jax.conditioning import hashing


GENERATOR = 1  # raised with every change of what an index gives
SHAPES = ('circle', 'square', 'triangle', 'cross')
COLOURS = ('red', 'green', 'blue', 'yellow', 'cyan', 'magenta')
PALETTE = np.array(
  [
    [0.90, 0.10, 0.10],
    [0.10, 0.70, 0.15],
    [0.12, 0.20, 0.90],
    [0.92, 0.85, 0.10],
    [0.10, 0.80, 0.85],
    [0.85, 0.15, 0.80],
  ],
  np.float32,
)
BACKGROUNDS = ('gradient', 'stripes', 'checks', 'waves')
THINGS = len(SHAPES) * len(COLOURS)
# Label 0 is padding, 1 + shape * 6 + colour a thing.
LABEL_NAMES = ('', *(f'{c} {s}' for s in SHAPES for c in COLOURS))

# Every split has its own seeds; indices are virtual, there is no last one.
SPLIT_OFFSETS = {'train': 0, 'val': 2**32, 'test': 2**33}

# Streams of the hash: what a uniform number is used for.
COUNT, CELLS, OBJECTS, KIND, TEXTURE, CAPTION, TRIPLES, INPAINT = range(1, 9)

MARGIN = 0.01  # to the border of a cell, so that objects never touch
PER_OBJECT = 8  # uniforms: shape, colour, size, x, y, rotation, 2 spare
ARM = 1 / 3  # half width of the arms of a cross, in half sizes
NEST_PROBABILITY = 0.5
# What can hold a smaller object, the side of the upright square inside it in
# units of its own side, and the place of that square in half sizes downwards.
NESTS = SHAPES[:3]
NEST_SIDE = np.array([0.7071, 0.9, 0.5])
NEST_DOWN = np.array([0.0, 0.0, 0.5])
TEXTURE_AMPLITUDE = 0.07


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
  """How hard a scene is; sizes are parts of a cell of the grid."""

  min_objects: int
  max_objects: int
  grid: int
  min_size: float = 0.45
  max_size: float = 0.85
  nested: bool = False
  rotation: float = 0.0  # radians, both ways


LEVELS = (
  Level(min_objects=1, max_objects=1, grid=1, min_size=0.30, max_size=0.65),
  Level(min_objects=1, max_objects=4, grid=3),
  Level(min_objects=2, max_objects=6, grid=3, nested=True),
  Level(
    min_objects=3,
    max_objects=9,
    grid=4,
    nested=True,
    rotation=float(np.deg2rad(17)),
  ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes:
  """The specifications of B scenes of at most N objects."""

  n_boxes: np.ndarray  # (B,) int32, objects of each scene; the rest is zero
  labels: np.ndarray  # (B, N) int32, 1..24, 0 = padding
  # (B, N, 4) float32: centre x, y and side as parts of the image, rotation in
  # radians (x towards y, which points down).
  geometry: np.ndarray
  parents: np.ndarray  # (B, N) int32, the object that holds this one, or -1
  boxes: np.ndarray  # (B, N, 4) float32 x0, y0, x1, y1 of the extent
  background: np.ndarray  # (B,) int32, a place in `BACKGROUNDS`
  # (B, 8) float32: red, green, blue of the base, cycles per image, two
  # phases, direction in radians, axis (0: waves run along x, 1: y).
  texture: np.ndarray

  def __len__(self) -> int:
    return len(self.n_boxes)


def split_seed(seed: int, split: str) -> int:
  """Returns the seed of a split, or raises a ValueError if it is unknown."""
  if split not in SPLIT_OFFSETS:
    raise ValueError(
      f'split must be one of {tuple(SPLIT_OFFSETS)}, got {split!r}.'
    )
  return seed + SPLIT_OFFSETS[split]


def uniforms(
  seed: int, indices: np.ndarray, stream: int, count: int
) -> np.ndarray:
  """Returns (B, count) float64 in [0, 1), hashed from (seed, index, stream).

  The seed is taken modulo 2**64; `stream` says what the numbers are for, 1..8;
  a larger count keeps the earlier ones.
  """
  rows = np.asarray(indices)[:, None]
  return hashing.uniforms(seed, rows, stream, np.arange(count))


def _vertices() -> np.ndarray:
  """(4, 8, 2) corners of the shapes in half sizes (the circle has none)."""
  cross = [(i, j * ARM) for i in (-1.0, 1.0) for j in (-1, 1)]
  cross += [(j, i) for i, j in cross]
  square = [(-1, -1), (1, -1), (-1, 1), (1, 1)] * 2
  triangle = [(0, -1), (-1, 1), (1, 1), (1, 1)] * 2
  return np.array([square, square, triangle, cross], np.float64)


VERTICES = _vertices()


def extents(shape: np.ndarray, rotation: np.ndarray) -> np.ndarray:
  """Returns (..., 4) x0, y0, x1, y1 of turned shapes of half size 1."""
  upright = np.array([-1.0, -1.0, 1.0, 1.0])
  if not rotation.any():
    return np.broadcast_to(upright, (*shape.shape, 4))
  v = VERTICES[shape]
  c, s = np.cos(rotation)[..., None], np.sin(rotation)[..., None]
  x = c * v[..., 0] - s * v[..., 1]
  y = s * v[..., 0] + c * v[..., 1]
  box = np.stack([x.min(-1), y.min(-1), x.max(-1), y.max(-1)], -1)
  return np.where((shape == 0)[..., None], upright, box)


def _place(
  u: np.ndarray, cells: np.ndarray, level: Level
) -> tuple[np.ndarray, ...]:
  """Puts one object into each cell; returns shape, colour, geometry, boxes."""
  cell = 1 / level.grid
  shape = (u[..., 0] * len(SHAPES)).astype(np.int32)
  colour = (u[..., 1] * len(COLOURS)).astype(np.int32)
  rotation = level.rotation * (2 * u[..., 5] - 1)
  unit = extents(shape, rotation)
  sides = unit[..., 2:] - unit[..., :2]
  side = cell * (level.min_size + (level.max_size - level.min_size) * u[..., 2])
  # A turned shape is wider than its side and must still fit its cell.
  side = np.minimum(side, 2 * (cell - 2 * MARGIN) / sides.max(-1))
  half = side[..., None] / 2
  corner = np.stack([cells % level.grid, cells // level.grid], -1) * cell
  slack = np.maximum(cell - sides * half - 2 * MARGIN, 0)
  low = corner + MARGIN + slack * u[..., 3:5]
  boxes = np.concatenate([low, low + sides * half], -1)
  centre = low - unit[..., :2] * half
  geometry = np.concatenate([centre, side[..., None], rotation[..., None]], -1)
  return shape, colour, geometry, boxes


def _nest(
  u: np.ndarray, level: Level
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Makes (B, 2) big objects that hold a smaller one of another colour.

  The small object sits in the upright square inside the big one and turns with
  it, so that it never leaves the big one's body.
  """
  big, small = u[:, 0], u[:, 1]
  shape = np.stack(
    [(big[:, 0] * len(NESTS)), (small[:, 0] * len(SHAPES))], 1
  ).astype(np.int32)
  colour = (big[:, 1] * len(COLOURS)).astype(np.int32)
  other = 1 + (small[:, 1] * (len(COLOURS) - 1)).astype(np.int32)
  colour = np.stack([colour, (colour + other) % len(COLOURS)], 1)
  rotation = np.repeat(level.rotation * (2 * big[:, 5:6] - 1), 2, 1)
  unit = extents(shape, rotation)

  side = 0.45 + 0.1 * big[:, 2]
  inner = side * NEST_SIDE[shape[:, 0]]
  sides = (unit[:, 0, 2:] - unit[:, 0, :2]) * side[:, None] / 2
  low = MARGIN + (1 - sides - 2 * MARGIN) * big[:, 3:5]
  centre = low - unit[:, 0, :2] * side[:, None] / 2

  # The ring around the small object must survive at 32 px.
  small_side = np.minimum(0.15 + 0.08 * small[:, 2], 0.75 * inner)
  jitter = 0.3 * (inner - small_side)[:, None] * (2 * small[:, 3:5] - 1)
  offset = jitter + np.stack(
    [np.zeros_like(side), NEST_DOWN[shape[:, 0]] * side / 2], -1
  )
  c, s = np.cos(rotation[:, 0]), np.sin(rotation[:, 0])
  turned = np.stack(
    [c * offset[:, 0] - s * offset[:, 1], s * offset[:, 0] + c * offset[:, 1]],
    -1,
  )
  centres = np.stack([centre, centre + turned], 1)
  both = np.stack([side, small_side], 1)[..., None]
  boxes = np.tile(centres, 2) + unit * both / 2
  geometry = np.concatenate([centres, both, rotation[..., None]], -1)
  return shape, colour, geometry, boxes


def _texture(seed: int, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the kind (B,) and the parameters (B, 8) of the backgrounds."""
  kind = (uniforms(seed, indices, KIND, 1)[:, 0] * len(BACKGROUNDS)).astype(
    np.int32
  )
  u = uniforms(seed, indices, TEXTURE, 8)
  base = 0.42 + 0.16 * u[:, :1] + 0.03 * (2 * u[:, 1:4] - 1)
  # Waves bend by one cycle, and need three to differ from stripes.
  lowest = np.where(kind == BACKGROUNDS.index('waves'), 3, 2)
  cycles = lowest + np.floor(u[:, 4] * (8 - lowest))
  phases = 2 * np.pi * u[:, 5:7]
  direction = 2 * np.pi * u[:, 7]
  axis = (u[:, 7] >= 0.5).astype(np.float64)
  texture = np.column_stack([base, cycles, phases, direction, axis])
  return kind, texture.astype(np.float32)


def sample(seed: int, indices: np.ndarray, level: int) -> Scenes:
  """Returns the scenes (B,) of indices >= 0; `seed` is that of a split.

  The levels are 0 (one object), 1 (1-4 on a 3x3 grid), 2 (2-6, half of the
  scenes with three or more have one inside another), 3 (3-9 on 4x4, turned).

  Raises:
    ValueError: `level` is unknown.
  """
  if level not in range(len(LEVELS)):
    raise ValueError(f'level must be 0..{len(LEVELS) - 1}, got {level!r}.')
  spec = LEVELS[level]
  indices = np.asarray(indices)
  n = spec.max_objects
  u_count = uniforms(seed, indices, COUNT, 2)
  counts = spec.min_objects + (
    u_count[:, 0] * (n - spec.min_objects + 1)
  ).astype(np.int32)
  cells = np.argsort(
    uniforms(seed, indices, CELLS, spec.grid**2), axis=1, kind='stable'
  )[:, :n]
  u = uniforms(seed, indices, OBJECTS, n * PER_OBJECT)
  u = u.reshape(len(indices), n, PER_OBJECT)
  shape, colour, geometry, boxes = _place(u, cells, spec)
  keep = np.arange(n) < counts[:, None]
  parents = np.full(shape.shape, -1, np.int32)
  if spec.nested:
    rows = np.flatnonzero((counts >= 3) & (u_count[:, 1] < NEST_PROBABILITY))
    pair = np.ix_(rows, np.arange(2))
    shape[pair], colour[pair], geometry[pair], boxes[pair] = _nest(
      u[rows], spec
    )
    parents[rows, 1] = 0
    # What is in the way of the big object goes, the rest moves up; the first
    # two stay where they are.
    big = boxes[rows, :1]
    after = boxes[rows, 2:, :2] > big[..., 2:] + MARGIN
    before = boxes[rows, 2:, 2:] < big[..., :2] - MARGIN
    keep[rows, 2:] &= np.any(after | before, axis=-1)
    order = np.argsort(~keep, axis=1, kind='stable')
    row = np.arange(len(order))[:, None]
    shape, colour, geometry, boxes, keep = (
      x[row, order] for x in (shape, colour, geometry, boxes, keep)
    )
  kind, texture = _texture(seed, indices)
  return Scenes(
    n_boxes=keep.sum(1, dtype=np.int32),
    labels=keep * (1 + shape * len(COLOURS) + colour),
    geometry=(geometry * keep[..., None]).astype(np.float32),
    parents=parents,
    boxes=(boxes * keep[..., None]).astype(np.float32),
    background=kind,
    texture=texture,
  )
