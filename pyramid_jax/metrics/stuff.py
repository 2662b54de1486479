"""Which background a `shapes` picture has, from its spectrum."""

import numpy as np

from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.metrics import bootstrap


MAX_CYCLES = 10
GROUND_SATURATION = 0.12
GRADIENT, STRIPES, CHECKS, WAVES = range(len(scenes.BACKGROUNDS))


def _classify(grey: np.ndarray, free: np.ndarray) -> int:
  """Returns the kind of one background.

  Args:
    grey: (H, W) float64 brightness.
    free: (H, W) bool, where no object is.
  """
  height, width = grey.shape
  y, x = np.nonzero(free)
  if len(x) < 3:
    return GRADIENT
  plane = np.stack([np.ones(len(x)), x / width, y / height], 1)
  values = grey[free]
  weights = np.linalg.lstsq(plane, values, rcond=None)[0]
  ramp = plane @ weights
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
  than any wave.

  Args:
    images: (N, H, W, 3) uint8.
  """
  colours, saturation = detector.colour_map(detector.check(images))
  # Smooth edges of objects are paler than their colour, not than the ground.
  free = (colours < 0) & (saturation < GROUND_SATURATION)
  grey = images.mean(-1)
  kinds = [_classify(g, f) for g, f in zip(grey, free, strict=True)]
  return np.array(kinds, np.int32).reshape(len(images))


def stuff_acc(kinds: np.ndarray, asked: np.ndarray) -> bootstrap.Score:
  """Returns the part of the images with the asked kind of background.

  Args:
    kinds: (B,) found, from `background_kinds`.
    asked: (B,) places in `scenes.BACKGROUNDS`.
  """
  return bootstrap.mean(kinds == asked)
