"""How images become the 299 x 299 pixels that Inception sees."""

import numpy as np
from PIL import Image

from pyramid_jax.networks import inception


TF1 = 'tf1'  # bilinear within the network, see `inception.preprocess`
CLEAN = 'clean'
RESIZES = (TF1, CLEAN)


def resized(images: np.ndarray, resize: str) -> np.ndarray:
  """Returns what `inception.preprocess` is given.

  `CLEAN` is the resize of GaParmar/clean-fid (cleanfid/resize.py,
  arXiv:2104.11222): Pillow's bicubic filter on each channel in float32, which
  averages where it reduces, clipped to 0..255 and not rounded.

  Args:
    images: (N, H, W, 3) uint8.
    resize: one of `RESIZES`.

  Returns:
    The images for `TF1`, (N, 299, 299, 3) float32 in 0..255 for `CLEAN`.
  """
  if resize == TF1:
    return images
  side = inception.SIDE
  found = np.empty((len(images), side, side, 3), np.float32)
  for i, image in enumerate(images):
    for channel in range(3):
      one = Image.fromarray(image[..., channel].astype(np.float32))
      small = one.resize((side, side), Image.Resampling.BICUBIC)
      found[i, ..., channel] = np.asarray(small)
  return found.clip(0, 255, out=found)
