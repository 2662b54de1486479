"""The objects of images, cut out by the boxes of their layouts."""

from collections.abc import Mapping

import numpy as np
from PIL import Image


SIDE = 224  # pixels of a crop


def of_images(
  images: np.ndarray, examples: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts the objects of layouts out of images.

  As ZejianLi/LAMA (utils/extract_cropped_objects.py, test.py) does it for
  SceneFID: every labelled box, enlarged or reduced to a square by Pillow's
  bicubic filter, in uint8. There the corners of real boxes are rounded up and
  those of generated ones down; here a crop has every pixel that its box
  touches, on both sides, so that none is empty.

  Args:
    images: (B, H, W, 3) uint8.
    examples: `boxes` (B, N, 4), x0, y0, x1, y1 in [0, 1], `labels` (B, N),
      0 for none, and `n_boxes` (B,), how many of the N there are.

  Returns:
    (M, 224, 224, 3) uint8, image by image, and (M,) the numbers of their boxes
    in the flattened (B, N).
  """
  height, width = images.shape[1:3]
  corners = examples['boxes'] * np.array([width, height] * 2, np.float64)
  places = np.arange(corners.shape[1])
  used = (places < examples['n_boxes'][:, None]) & (examples['labels'] > 0)
  crops = []
  for row, place in np.argwhere(used):
    box = _pixels(corners[row, place], (width, height))
    crop = Image.fromarray(images[row]).crop(box)
    crops.append(crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
  none = np.zeros((0, SIDE, SIDE, 3), np.uint8)
  found = np.stack([np.asarray(crop) for crop in crops]) if crops else none
  return found, np.flatnonzero(used)


def _pixels(
  box: np.ndarray, size: tuple[int, int]
) -> tuple[int, int, int, int]:
  """Returns the pixels that a box (4,) touches, at least one."""
  # A corner on the edge of a pixel, but for the rounding of float32, is on it.
  low = np.floor(box[:2] + 1e-3).astype(int)
  low = np.clip(low, 0, np.array(size) - 1)
  high = np.ceil(box[2:] - 1e-3).astype(int)
  high = np.clip(high, low + 1, size)
  return (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
