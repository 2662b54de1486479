"""Images of high dynamic range: Radiance files (.hdr) and arrays (.npy).

The format is that of Greg Ward's Radiance: a text header, and four bytes for
each pixel, three mantissas with a common exponent, by rows and, within a row,
with runs of each of the four. Rows go down and columns to the right. The
header's exposures are ignored: readers here set the exposure themselves.
"""

import re

import numpy as np

from pyramid_jax import limits
from pyramid_jax.data.pixels import array_files
from pyramid_jax.data.pixels import images


SUFFIX = '.hdr'
SUFFIXES = (SUFFIX, array_files.SUFFIX)
_MAGIC = (b'#?RADIANCE', b'#?RGBE')
_HEADER = 1 << 16  # bytes, at most
_FORMAT = b'FORMAT=32-bit_rle_rgbe'
_SIZE = re.compile(rb'-Y (\d{1,6}) \+X (\d{1,6})')
_RUNS = range(8, 32768)  # widths of rows that may have runs


def decode(data: bytes, where: str) -> np.ndarray:
  """Returns radiance (H, W, 3) float32 of a file of `SUFFIXES`.

  Raises:
    BrokenImage: it is no such image, or has NaN, Inf or less than 0.
  """
  if data.startswith(_MAGIC):
    return _decode_radiance(data, where)
  array = array_files.decode(data, where)
  if array.ndim != 3 or array.shape[2] != 3 or array.dtype.kind != 'f':
    raise images.BrokenImage(
      where,
      f'an array {array.shape} of {array.dtype}, must be floats (H, W, 3)',
    )
  radiance = array.astype(np.float32)
  if not np.isfinite(radiance).all() or radiance.min() < 0:
    raise images.BrokenImage(where, 'NaN, Inf or less than no light in it')
  return radiance


def _decode_radiance(data: bytes, where: str) -> np.ndarray:
  head, blank, _ = data[:_HEADER].partition(b'\n\n')
  begin = len(head) + len(blank)
  line, _, _ = data[begin : begin + 40].partition(b'\n')
  size = _SIZE.fullmatch(line)
  if not blank or _FORMAT not in head.split(b'\n') or size is None:
    raise images.BrokenImage(
      where, 'no Radiance image of RGBE whose rows go down and to the right'
    )
  height, width = int(size[1]), int(size[2])
  if not 0 < height * width <= limits.IMAGE_PIXELS:
    raise images.BrokenImage(where, f'{width} x {height} px')
  body = np.frombuffer(data, np.uint8, offset=begin + len(line) + 1)
  pixels = _rows(body, height, width, where)
  scale = np.ldexp(1.0, pixels[..., 3].astype(np.int32) - 136)
  scale = np.where(pixels[..., 3], scale, 0.0)
  return (pixels[..., :3] * scale[..., None]).astype(np.float32)


def _rows(body: np.ndarray, height: int, width: int, where: str) -> np.ndarray:
  """Returns (H, W, 4) uint8 of the rows of a file."""
  start = bytes((2, 2, width >> 8, width & 255))
  if width not in _RUNS or body[:4].tobytes() != start:
    if body.size != 4 * height * width:
      raise images.BrokenImage(
        where, f'{body.size} of {4 * height * width} bytes of pixels'
      )
    return body.reshape(height, width, 4)
  rows, at = np.empty((height, 4, width), np.uint8), 0
  for row in rows:
    if body[at : at + 4].tobytes() != start:
      raise images.BrokenImage(where, 'a row that does not begin as one')
    at += 4
    for channel in row:
      at = _unpacked(body, at, channel, where)
  return rows.transpose(0, 2, 1)


def _unpacked(
  body: np.ndarray, at: int, channel: np.ndarray, where: str
) -> int:
  """Fills a channel of a row from its runs, and returns where they end."""
  done = 0
  while done < len(channel):
    if at + 1 >= len(body):
      raise images.BrokenImage(where, 'fewer bytes than pixels')
    count = int(body[at])
    is_run = count > 128
    count -= 128 * is_run
    values = body[at + 1 : at + 2 if is_run else at + 1 + count]
    if not 0 < count <= len(channel) - done or not len(values):
      raise images.BrokenImage(where, 'a run that leaves its row')
    if not is_run and len(values) < count:
      raise images.BrokenImage(where, 'fewer bytes than pixels')
    channel[done : done + count] = values
    done += count
    at += 2 if is_run else 1 + count
  return at


def encode(radiance: np.ndarray) -> bytes:
  """Returns a Radiance file of radiance (H, W, 3), without runs."""
  height, width, _ = radiance.shape
  most = radiance.max(-1)
  mantissa, exponent = np.frexp(np.where(most > 1e-32, most, 1.0))
  scale = np.where(most > 1e-32, mantissa * 256 / np.maximum(most, 1e-32), 0)
  pixels = np.empty((height, width, 4), np.uint8)
  pixels[..., :3] = radiance * scale[..., None]
  pixels[..., 3] = np.where(most > 1e-32, exponent + 128, 0)
  header = b'#?RADIANCE\n' + _FORMAT + b'\n\n-Y %d +X %d\n' % (height, width)
  return header + pixels.tobytes()
