"""Files of sketches: images with their opacity, or SVG."""

import os
import pathlib

import numpy as np

from pyramid_jax.data import images
from pyramid_jax.data import svg


_BYTE_ORDER_MARK = b'\xef\xbb\xbf'


def read(path: str | os.PathLike) -> np.ndarray:
  """Reads a JPEG, PNG, WebP or SVG file; the content decides, not the name.

  (H, W, 4) uint8: red, green, blue and opacity.

  Raises:
    BrokenImage: no such file, another format, too large, or damaged.
  """
  path = pathlib.Path(path)
  data = images.load_bytes(path)
  if not data.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b'<'):
    return images.decode_rgba(data, path)
  try:
    return svg.rasterize(data)
  except ValueError as error:
    raise images.BrokenImage(path, str(error)) from error
