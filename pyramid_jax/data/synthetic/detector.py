"""An analytic detector of the objects of `shapes` images.

It has the role of YOLO for photographs, with a recall of about 1 on real
images, so that a low score is due to the model.
"""

from collections.abc import Iterator
import dataclasses
import functools

import numpy as np
from scipy import ndimage

from pyramid_jax.data import degradation
from pyramid_jax.data.pixels import images as images_lib
from pyramid_jax.data.synthetic import render
from pyramid_jax.data.synthetic import scenes


MIN_SATURATION = 0.30
MIN_AREA_PX = 6  # at 64 px and below
PALE = 0.8  # Less of the pure colour's saturation may be a mixture.
GRID = 16  # side of the templates
TURNS = np.deg2rad(np.linspace(-17, 17, 7))
_CHUNK = 64  # images labelled at a time
# Neighbours within one plane: components of different colours and of different
# images never join, whatever the number of planes.
_NEIGHBOURS = np.zeros((3, 3, 3), bool)
_NEIGHBOURS[1] = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detections:
  """The K objects found in one image, largest first."""

  boxes: np.ndarray  # (K, 4) float64 x0, y0, x1, y1 in [0, 1], whole pixels
  labels: np.ndarray  # (K,) int32, 1..24
  areas: np.ndarray  # (K,) int64 px of the visible parts
  # the crop's rows and columns, and its bool mask, of each
  masks: tuple[tuple[tuple[slice, slice], np.ndarray], ...]

  def __len__(self) -> int:
    return len(self.labels)

  @property
  def colours(self) -> np.ndarray:
    """(K,) places in `scenes.COLOURS`."""
    return (self.labels - 1) % len(scenes.COLOURS)


def colour_map(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the colour and the saturation of every pixel.

  Colours are (N, H, W) int8, places in `scenes.COLOURS` or -1 for grey, the
  saturation is (N, H, W) float32 in [0, 1]; `images` are (N, H, W, 3) uint8.
  """
  pixels = images.astype(np.float32) / 255
  red, green, blue = (pixels[..., i] for i in range(3))
  high = np.maximum(np.maximum(red, green), blue)
  saturation = high - np.minimum(np.minimum(red, green), blue)
  palette = scenes.PALETTE - scenes.PALETTE.mean(1, keepdims=True)
  palette /= np.linalg.norm(palette, axis=1, keepdims=True)
  # The palette is mean-free, so the pixels need not be.
  nearest = (pixels @ palette.T).argmax(-1).astype(np.int8)
  nearest[saturation < MIN_SATURATION] = -1
  return nearest, saturation


@functools.cache
def _templates(turned: bool) -> tuple[np.ndarray, np.ndarray]:
  """Returns the shape (M,) and soft mask (M, 256) of every template."""
  shapes, masks = [], []
  for shape in range(len(scenes.SHAPES)):
    turns = TURNS if turned and scenes.SHAPES[shape] != 'circle' else [0.0]
    for turn in turns:
      low, high = np.split(scenes.extents(np.array(shape), np.array(turn)), 2)
      step = (high - low) / GRID
      fine = (np.arange(GRID * 8) + 0.5) / 8
      x, y = np.meshgrid(low[0] + step[0] * fine, low[1] + step[1] * fine)
      c, s = np.cos(turn), np.sin(turn)
      u, v = c * x + s * y, c * y - s * x
      inside = render.distance(np.array(shape), u, v) < 0
      soft = inside.reshape(GRID, 8, GRID, 8).mean((1, 3))
      shapes.append(shape)
      masks.append(soft.ravel())
  return np.array(shapes), np.array(masks, np.float32)


@functools.cache
def _resampling(size: int) -> np.ndarray:
  return degradation.area_weights(size, GRID).astype(np.float32)


def classify(mask: np.ndarray, turned: bool) -> int:
  """Returns the shape of a component cut out at its extent.

  `mask` is (h, w) bool, holes filled; `turned` says whether shapes may be
  turned by up to 17 degrees.
  """
  rows, columns = (_resampling(n) for n in mask.shape)
  soft = (rows @ mask.astype(np.float32) @ columns.T).ravel()
  shapes, templates = _templates(turned)
  overlap = np.minimum(soft, templates).sum(1)
  union = np.maximum(soft, templates).sum(1)
  return int(shapes[np.argmax(overlap / union)])


def _is_blend(
  colours: np.ndarray,
  saturation: np.ndarray,
  place: tuple[slice, slice],
  mask: np.ndarray,
) -> bool:
  """Returns whether a component is the smooth seam between two colours.

  Where one object lies on another, the pixels between them are mixtures, and
  red on blue gives a seam of magenta: pale, thin, and between two colours.
  """
  rows, columns = place
  colour = colours[place][mask][0]
  pure = np.ptp(scenes.PALETTE[colour])
  if saturation[place][mask].max() >= PALE * pure:
    return False
  square = np.ones((3, 3))
  if ndimage.binary_erosion(mask, square).any():
    return False
  grown = ndimage.binary_dilation(np.pad(mask, 1), square)
  around = np.pad(colours, 1, constant_values=-1)[
    rows.start : rows.stop + 2, columns.start : columns.stop + 2
  ][grown]
  return len(np.setdiff1d(around, [-1, colour])) >= 2


def _detect_chunk(images: np.ndarray, turned: bool) -> Iterator[Detections]:
  n, height, width, _ = images.shape
  colours, saturation = colour_map(images)
  count = len(scenes.COLOURS)
  planes = colours[:, None] == np.arange(count, dtype=np.int8)[:, None, None]
  ids, _ = ndimage.label(planes.reshape(n * count, height, width), _NEIGHBOURS)
  areas = np.bincount(ids.ravel())
  smallest = MIN_AREA_PX * max(1.0, height * width / 64**2)
  found: list[list[tuple]] = [[] for _ in range(n)]
  for i, place in enumerate(ndimage.find_objects(ids), 1):
    if areas[i] < smallest:
      continue
    plane, rows, columns = place
    image, colour = divmod(plane.start, count)
    mask = ids[place][0] == i
    if _is_blend(colours[image], saturation[image], place[1:], mask):
      continue
    shape = classify(ndimage.binary_fill_holes(mask), turned)
    label = 1 + shape * count + colour
    found[image].append((areas[i], label, (rows, columns), mask))
  for objects in found:
    objects.sort(key=lambda item: -item[0])
    sizes, labels, places, masks = (
      [item[k] for item in objects] for k in range(4)
    )
    boxes = [[x.start, y.start, x.stop, y.stop] for y, x in places]
    yield Detections(
      boxes=np.array(boxes, np.float64).reshape(-1, 4) / ((width, height) * 2),
      labels=np.array(labels, np.int32),
      areas=np.array(sizes, np.int64),
      masks=tuple(zip(places, masks, strict=True)),
    )


def detect(images: np.ndarray, turned: bool = False) -> list[Detections]:
  """Finds the objects of every image (N, H, W, 3) uint8.

  `turned` says whether shapes may be turned by up to 17 degrees (level 3).

  Raises:
    ValueError: `images` are of another shape or type.
  """
  images_lib.check_batch(images)
  out: list[Detections] = []
  for start in range(0, len(images), _CHUNK):
    out.extend(_detect_chunk(images[start : start + _CHUNK], turned))
  return out
