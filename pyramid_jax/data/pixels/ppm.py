"""Images that are stored as their pixels: binary PPM, as Pillow writes it.

Pillow decodes such a file into pixels of four bytes and makes an array of three
of them again, which takes longer than all else that is done with a prepared
image.
"""

import re

import numpy as np

from pyramid_jax import limits


_HEADER = re.compile(rb'P6\n(\d{1,5}) (\d{1,5})\n255\n')


def pixels(data: bytes) -> np.ndarray | None:
  """Returns the pixels (H, W, 3) uint8 of a file, read-only, without a copy.

  None for every other file: of another format, with comments in its header,
  with less or more bytes than pixels, or larger than any that is read. They
  are for `images.decode_image`, which reads them or says what is wrong.
  """
  header = _HEADER.match(data)
  if header is None:
    return None
  width, height = map(int, header.groups())
  if not 0 < width * height <= limits.IMAGE_PIXELS:
    return None
  if max(width, height) > limits.IMAGE_SIDE:
    return None
  if len(data) - header.end() != 3 * width * height:
    return None
  flat = np.frombuffer(data, np.uint8, offset=header.end())
  return flat.reshape(height, width, 3)
