"""Files of sketches: images with their opacity, or SVG.

An SVG file is checked and written anew (see `svg_document`), with nothing in it
that could name a file or an address; resvg renders that in a process of its
own, whose time and memory are bounded. What would change what is seen and
cannot be rendered (text, scripts, other files) is refused by name.
"""

import io
import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

from pyramid_jax.data import images
from pyramid_jax.data import svg_document


MAX_BYTES = 1 << 22
SIDE = 1024  # px of the longer side of a sketch
MAX_SECS = 10
MAX_MEMORY = 1 << 31  # bytes

_BYTE_ORDER_MARK = b'\xef\xbb\xbf'
# Runs in the other process: SVG in, PNG out.
_RENDER = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MAX_MEMORY}, {MAX_MEMORY}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import resvg_py
sys.stdout.buffer.write(resvg_py.svg_to_bytes(
  svg_string=sys.stdin.read(), skip_system_fonts=True))
"""


def read(path: str | os.PathLike) -> np.ndarray:
  """Reads a JPEG, PNG, WebP or SVG file; the content decides, not the name.

  The result is (H, W, 4) uint8: red, green, blue and opacity.

  Raises:
    BrokenImage: no such file, another format, too large, or damaged.
  """
  path = pathlib.Path(path)
  data = images.load_bytes(path)
  if not data.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b'<'):
    return images.decode_rgba(data, path)
  try:
    return rasterize(data)
  except ValueError as error:
    reason = ' '.join(str(error).split())
    raise images.BrokenImage(path, reason) from error


def rasterize(data: bytes, side: int = SIDE) -> np.ndarray:
  """Renders an SVG file; the longer side of the result has `side` px.

  The result is (H, W, 4) uint8: red, green, blue and opacity. No stroke is
  thinner than a pixel.

  Raises:
    ValueError: one line: not SVG, too large, damaged, or with an element or a
      value that is not read.
  """
  if len(data) > MAX_BYTES:
    raise ValueError(f'{len(data)} bytes of SVG, at most {MAX_BYTES} are read')
  png = _rendered(svg_document.rewritten(data, side))
  return np.array(Image.open(io.BytesIO(png)).convert('RGBA'))


def _rendered(document: str) -> bytes:
  """Returns the PNG of a document, rendered in a process of its own."""
  try:
    done = subprocess.run(
      [sys.executable, '-I', '-c', _RENDER],
      input=document.encode(),
      capture_output=True,
      timeout=MAX_SECS,
      check=True,
    )
  except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
    raise ValueError(
      f'cannot be rendered in {MAX_SECS} s and {MAX_MEMORY >> 20} MiB'
    ) from None
  return done.stdout
