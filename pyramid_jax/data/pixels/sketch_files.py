"""Files of sketches: images with their opacity, or SVG.

An SVG file is checked and written anew (see `svg_document`), with nothing in it
that could name a file or an address; resvg renders that in a process of its
own, whose time and memory are bounded. What would change what is seen and
cannot be rendered (text, scripts, other files) is refused by name.
"""

import io
import os
import subprocess
import sys

import numpy as np
from PIL import Image

from pyramid_jax import limits
from pyramid_jax.data.pixels import images
from pyramid_jax.data.svg import document as svg_document
from pyramid_jax.files import stores


SIDE = 1024  # px of the longer side of a sketch

_BYTE_ORDER_MARK = b'\xef\xbb\xbf'
# Runs in the other process, with bytes and seconds: SVG in, PNG out. What the
# renderer cannot render ends it with a code of its own.
_RENDER = """
import resource, sys
import resvg_py
most, secs = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (secs, secs + 1))
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
  text = sys.stdin.buffer.read().decode()
  image = resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True)
except BaseException as error:
  sys.exit(f'{type(error).__name__}: {error}')
sys.stdout.buffer.write(image)
"""


def read(path: str | os.PathLike) -> np.ndarray:
  """Reads a JPEG, PNG, WebP or SVG file; the content decides, not the name.

  The result is (H, W, 4) uint8: red, green, blue and opacity.

  Raises:
    BrokenImage: no such file, another format, too large, or damaged.
  """
  path = stores.path(path)
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
  most = limits.SVG_BYTES
  if len(data) > most:
    raise ValueError(f'{len(data)} bytes of SVG, at most {most} are read')
  try:
    document = svg_document.rewritten(data, side)
  except RecursionError:
    raise ValueError('a style is nested too deeply') from None
  png = _rendered(document)
  return np.array(Image.open(io.BytesIO(png)).convert('RGBA'))


def _rendered(document: str) -> bytes:
  """Returns the PNG of a document, rendered in a process of its own."""
  most, secs = limits.RENDERER_BYTES, limits.RENDERER_SECS
  try:
    return subprocess.run(
      [sys.executable, '-I', '-c', _RENDER, str(most), str(secs)],
      input=document.encode(),
      capture_output=True,
      timeout=limits.RENDERER_WAIT_SECS,
      check=True,
    ).stdout
  except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
    said = (error.stderr or b'').decode(errors='replace').strip()
  if 'Traceback (most' in said:
    raise RuntimeError(f'the renderer of SVG does not start: {said}')
  lines = [x for x in said.splitlines() if not x.startswith('note:')]
  raise ValueError(
    f'cannot be rendered in {secs} s and {most >> 20} MiB'
    + (f' ({lines[-1]:.200})' if lines else '')
  )
