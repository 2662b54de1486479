"""What the pixels of `shapes` images show: backgrounds, class maps, edges."""

from collections.abc import Sequence

import numpy as np

from pyramid_jax.data.pixels import images as images_lib
from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.metrics import bootstrap


Found = Sequence[detector.Detections]
# 0 unlabelled, then the things, then the backgrounds.
CLASSES = 1 + scenes.THINGS + len(scenes.BACKGROUNDS)
MIOU = 'seg_miou'
MAX_CYCLES = 10
GROUND_SATURATION = 0.12
GRADIENT, STRIPES, CHECKS, WAVES = range(len(scenes.BACKGROUNDS))


def _classify(grey: np.ndarray, free: np.ndarray) -> int:
  """Returns the kind of one background.

  `grey` is the brightness, (H, W) float64; `free` says where no object is.
  """
  height, width = grey.shape
  y, x = np.nonzero(free)
  if len(x) < 3:
    return GRADIENT
  plane = np.stack([np.ones(len(x)), x / width, y / height], 1)
  values = grey[free]
  ramp = plane @ np.linalg.lstsq(plane, values, rcond=None)[0]
  texture = np.zeros_like(grey)
  texture[free] = values - values.mean()
  power = np.abs(np.fft.fft2(texture)) ** 2
  # Fold both directions of a wave into one quadrant; on an axis they are one.
  n = min(MAX_CYCLES, height // 2 - 1, width // 2 - 1) + 1
  power = power[:n, :n] + power[:n, -np.arange(n)]
  power[0] /= 2
  power[:, 0] /= 2
  row, column = np.unravel_index(power.argmax(), power.shape)
  if np.square(ramp - ramp.mean()).sum() > 2 * power.max() / len(x):
    return GRADIENT
  if min(row, column) == 0:
    return STRIPES
  return CHECKS if row == column else WAVES


def background_kinds(images: np.ndarray) -> np.ndarray:
  """Returns the (N,) int32 place in `scenes.BACKGROUNDS` of each background.

  Stripes have their peak on an axis of the spectrum, checks on the diagonal,
  waves beside an axis, and gradients are ramps, which a plane explains better
  than any wave. `images` are (N, H, W, 3) uint8.
  """
  colours, saturation = detector.colour_map(images_lib.check_batch(images))
  # Smooth edges of objects are paler than their colour, not than the ground.
  free = (colours < 0) & (saturation < GROUND_SATURATION)
  kinds = [_classify(*pair) for pair in zip(images.mean(-1), free, strict=True)]
  return np.array(kinds, np.int32).reshape(len(images))


def class_maps(
  size: tuple[int, int], found: Found, kinds: np.ndarray
) -> np.ndarray:
  """Returns (B, H, W) uint8 maps of the classes that are seen in B images.

  `size` is their height and width, `kinds` (B,) their backgrounds.
  """
  maps = np.empty((len(found), *size), np.uint8)
  for b, (one, kind) in enumerate(zip(found, kinds, strict=True)):
    maps[b] = 1 + scenes.THINGS + kind
    for label, (place, mask) in zip(one.labels, one.masks, strict=True):
      maps[b][place][mask] = label
  return maps


def _mean_iou(row: np.ndarray) -> float:
  overlap, union = np.split(row, 2)
  there = union > 0
  return float((overlap[there] / union[there]).mean()) if there.any() else 1.0


def map_columns(seen: np.ndarray, asked: np.ndarray) -> dict[str, np.ndarray]:
  """Returns what the scores of semantic maps (B, H, W), 0 = unlabelled, need.

  seg_miou is the intersection over union of each class over all images, the
  mean of the classes that are asked for or seen; pixel_acc the share of the
  labelled pixels that are as asked.

  Returns:
    `seg_miou` (B, 2 K), overlap and union in pixels of each class, see
    `mean_iou`; `pixel_acc` (B, 2), see `bootstrap.ratio`.

  Raises:
    ValueError: shapes that differ, or a class that does not exist.
  """
  if seen.shape != asked.shape:
    raise ValueError(f'maps {seen.shape} and {asked.shape} must agree.')
  if asked.size and asked.max() >= CLASSES:
    raise ValueError(f'classes are 0..{CLASSES - 1}, got {asked.max()}.')
  counted = asked > 0
  count = lambda x: np.bincount(x, minlength=CLASSES)
  rows = []
  for s, a, where in zip(seen, asked, counted, strict=True):
    s, a = s[where], a[where]
    overlap = count(s[s == a])
    rows.append(np.concatenate([overlap, count(s) + count(a) - overlap]))
  right = ((seen == asked) & counted).sum((1, 2))
  return {
    MIOU: np.array(rows, np.int32).reshape(len(seen), 2 * CLASSES),
    'pixel_acc': bootstrap.pairs(right, counted.sum((1, 2))),
  }


def mean_iou(rows: np.ndarray) -> bootstrap.Score:
  """Returns seg_miou by the rows (B, 2 K) of `map_columns`."""
  return bootstrap.statistic(rows, _mean_iou)


def borders(ids: np.ndarray) -> np.ndarray:
  """Returns where (..., H, W) ids differ from the right or lower neighbour."""
  edge = np.zeros(ids.shape, bool)
  edge[..., :, :-1] |= ids[..., :, :-1] != ids[..., :, 1:]
  edge[..., :-1, :] |= ids[..., :-1, :] != ids[..., 1:, :]
  return edge


def edges(images: np.ndarray) -> np.ndarray:
  """Returns where colour classes meet in (N, H, W, 3) uint8 images.

  The result is (N, H, W) bool, lines of one pixel.
  """
  colours, _ = detector.colour_map(images_lib.check_batch(images))
  return borders(colours)
