"""Images as the square inputs of feature networks, resized on the host.

Pillow's bicubic filter, which averages over what becomes one pixel, and whose
results are uint8.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image


Prepare = Callable[[np.ndarray], np.ndarray]  # (N, H, W, 3) uint8 both


def of_clip(side: int) -> Prepare:
  """Returns what CLIP does: the shorter side, then a square in the middle.

  openai/CLIP: clip/clip.py, _transform, by torchvision's Resize and CenterCrop.
  """

  def square(image: Image.Image) -> Image.Image:
    width, height = image.size
    shorter = min(width, height)
    size = int(side * width / shorter), int(side * height / shorter)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((x - side) / 2) for x in size)
    return resized.crop((left, top, left + side, top + side))

  return _each(square)


def of_cmmd(side: int) -> Prepare:
  """Returns what CMMD does: the square in the middle, then its size.

  sayakpaul/cmmd-pytorch: io_util.py, _center_crop_and_resize. What follows
  there (embedding.py, _resize_bicubic) has this size already.
  """

  def square(image: Image.Image) -> Image.Image:
    width, height = image.size
    shorter = min(width, height)
    left, top = (width - shorter) // 2, (height - shorter) // 2
    part = image.crop((left, top, left + shorter, top + shorter))
    return part.resize((side, side), Image.Resampling.BICUBIC)

  return _each(square)


def _each(square: Callable[[Image.Image], Image.Image]) -> Prepare:
  def prepare(images: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(square(Image.fromarray(x))) for x in images])

  return prepare
