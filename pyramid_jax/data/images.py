"""Image files: safe decoding, resizing, crops and flips."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import errno
import io
import os
import pathlib
import struct
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from PIL import ImageOps

from pyramid_jax.conditions import hashing


FORMATS = ('JPEG', 'PNG', 'WEBP')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')
MAX_PIXELS = 64_000_000
MAX_BYTES = 1 << 28
CROPS = ('center', 'random-1d', 'random-2d', 'none')

# Words of the hash, one for each choice of an example.
_LEFT, _TOP, _SIDE, _FLIP = 101, 102, 103, 104

# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  RuntimeError,
  struct.error,
  zlib.error,
  Image.DecompressionBombError,
  Image.DecompressionBombWarning,
)
# Errors of a slow or remote disk that a second attempt may mend.
_TRANSIENT = (errno.EIO, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE)
_PAUSES_SECS = (0.05, 0.2, 0.8)


class BrokenImage(Exception):
  """A file that is not a usable image.

  Attributes:
    path: the file.
    reason: what is wrong with it.
  """

  def __init__(self, path: str | os.PathLike, reason: str):
    super().__init__(f'{path}: {reason}')
    self.path = str(path)
    self.reason = reason


def _load_bytes(path: pathlib.Path) -> bytes:
  pauses = iter(_PAUSES_SECS)
  while True:
    try:
      size = path.stat().st_size
      if size > MAX_BYTES:
        raise BrokenImage(path, f'{size} bytes, at most {MAX_BYTES} are read')
      return path.read_bytes()
    except OSError as error:
      pause = next(pauses, None) if error.errno in _TRANSIENT else None
      if pause is None:
        raise BrokenImage(path, error.strerror or str(error)) from error
    time.sleep(pause)


def _to_rgb(image: Image.Image) -> np.ndarray:
  if image.mode.startswith('I'):  # 16 bits a pixel
    grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
  if 'transparency' in image.info or image.mode in ('RGBA', 'LA', 'PA', 'La'):
    image = image.convert('RGBA')
    paper = Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(paper, image)
  return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))


def read(
  path: str | os.PathLike,
  upright: bool = False,
  max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
  """Decodes a JPEG, PNG or WebP file; the size is checked before decoding.

  Grey images become three equal channels, CMYK is converted by Pillow,
  transparency is laid on white, 16-bit values lose their lower byte, and of
  an animation the first picture counts.

  Args:
    path: the file.
    upright: whether to apply the EXIF orientation. Not for annotated data,
      whose boxes belong to the pixels as they are stored.
    max_pixels: larger images are refused.

  Returns:
    (H, W, 3) uint8.

  Raises:
    BrokenImage: no such file, another format, too large, or damaged.
  """
  data = io.BytesIO(_load_bytes(pathlib.Path(path)))
  try:
    with Image.open(data, formats=FORMATS) as file:
      width, height = file.size
      if width * height > max_pixels:
        raise BrokenImage(
          path, f'{width}x{height} px, at most {max_pixels} pixels are read'
        )
      file.load()
      return _to_rgb(ImageOps.exif_transpose(file) if upright else file)
  except Image.UnidentifiedImageError:
    raise BrokenImage(path, f'not one of {", ".join(FORMATS)}') from None
  except _DECODER_ERRORS as error:
    raise BrokenImage(path, str(error) or type(error).__name__) from error


def _taps(
  inputs: int, outputs: int, first: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns both source indices and the weight of the second, float32."""
  scale = np.float32(inputs) / np.float32(outputs)
  index = np.arange(first, first + count, dtype=np.float32)
  source = scale * (index + np.float32(0.5)) - np.float32(0.5)
  source = np.maximum(source, np.float32(0))
  low = np.minimum(source.astype(np.int64), inputs - 1)
  high = np.minimum(low + 1, inputs - 1)
  return low, high, source - low.astype(np.float32)


def resize_plain(
  image: np.ndarray,
  size: tuple[int, int],
  window: tuple[int, int, int, int],
) -> np.ndarray:
  """Resizes as Frido does: bilinear, no antialiasing, truncated to uint8.

  That is `torch.nn.functional.interpolate(align_corners=False)` of a uint8
  tensor in torchvision 0.8.1, on which the published FID references depend.

  Args:
    image: (H, W, 3) uint8.
    size: width and height of the whole resized image.
    window: left, top, width, height of the part that is computed.

  Returns:
    (height, width, 3) uint8.
  """
  left, top, width, height = window
  rows, columns, channels = image.shape
  x0, x1, wx = _taps(columns, size[0], left, width)
  y0, y1, wy = _taps(rows, size[1], top, height)
  # Channels join the columns: NumPy is slow on a last axis of three.
  channel = np.arange(channels)
  x0 = (x0[:, None] * channels + channel).ravel()
  x1 = (x1[:, None] * channels + channel).ravel()
  wx, wy = np.repeat(wx, channels), wy[:, None]
  vx, vy = 1 - wx, 1 - wy
  flat = image.reshape(rows, columns * channels)
  above, under = flat[y0], flat[y1]
  # In the order of the original: rounding decides what truncation cuts off.
  value = (vy * vx) * above.take(x0, axis=1)
  value += (vy * wx) * above.take(x1, axis=1)
  value += (wy * vx) * under.take(x0, axis=1)
  value += (wy * wx) * under.take(x1, axis=1)
  return value.astype(np.uint8).reshape(height, width, channels)


def resize_smooth(
  image: np.ndarray,
  size: tuple[int, int],
  window: tuple[int, int, int, int],
) -> np.ndarray:
  """Resizes with Pillow's antialiased bicubic filter; as `resize_plain`."""
  left, top, width, height = window
  x, y = image.shape[1] / size[0], image.shape[0] / size[1]
  box = (left * x, top * y, (left + width) * x, (top + height) * y)
  resized = Image.fromarray(image).resize(
    (width, height), Image.Resampling.BICUBIC, box=box
  )
  return np.asarray(resized)


Resize = Callable[
  [np.ndarray, tuple[int, int], tuple[int, int, int, int]], np.ndarray
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform:
  """Resize, crop and flip of one example.

  The crops of taming-transformers (data/image_transforms.py): 'center' and
  'random-1d' resize the shorter side to `size`, then cut a square in the
  middle or anywhere along the longer side; 'random-2d' cuts a random square
  of at least `size` pixels, then resizes; 'none' squashes.

  Attributes:
    size: both sides of the result.
    crop: one of `CROPS`.
    flip: whether to mirror with chance one half.
    resize: `resize_plain` or `resize_smooth`.
  """

  size: int
  crop: str = 'center'
  flip: bool = False
  resize: Resize = resize_plain

  def __post_init__(self):
    if self.crop not in CROPS:
      raise ValueError(
        f'crop is {self.crop!r}, must be one of {", ".join(CROPS)}.'
      )

  def __call__(
    self, image: np.ndarray, draw: int | np.integer
  ) -> tuple[np.ndarray, np.ndarray, bool]:
    """Applies the choices of a draw.

    Args:
      image: (H, W, 3) uint8.
      draw: the seed of the example.

    Returns:
      (size, size, 3) uint8; the crop (4,) float64 as x0, y0, x1, y1 of the
      full image in [0, 1], before mirroring; whether it is mirrored.
    """
    height, width = image.shape[:2]
    size = self.size
    whole = (0, 0, size, size)
    if self.crop == 'random-2d':
      side = min(width, height)
      if side > size:
        side = size + int(hashing.below(side - size + 1, draw, _SIDE))
      left = int(hashing.below(width - side + 1, draw, _LEFT))
      top = int(hashing.below(height - side + 1, draw, _TOP))
      part = image[top : top + side, left : left + side]
      pixels = self.resize(part, (size, size), whole)
      crop = np.array([left, top, left + side, top + side], np.float64)
      crop /= (width, height, width, height)
    elif self.crop == 'none':
      pixels = self.resize(image, (size, size), whole)
      crop = np.array([0.0, 0.0, 1.0, 1.0])
    else:
      short = min(width, height)
      resized = (size * width // short, size * height // short)
      left, top, crop = self._square(resized, draw)
      pixels = self.resize(image, resized, (left, top, size, size))
    flipped = self.flip and bool(hashing.uniforms(draw, _FLIP) < 0.5)
    if flipped:
      pixels = pixels[:, ::-1]
    return pixels, crop, flipped

  def _square(
    self, resized: tuple[int, int], draw: int | np.integer
  ) -> tuple[int, int, np.ndarray]:
    """Returns left, top and the crop of a square along the longer side."""
    width, height = resized
    size = self.size
    if self.crop == 'center':
      left, top = round((width - size) / 2), round((height - size) / 2)
      # The official box is exactly in the middle, though the pixels are cut
      # at whole numbers.
      x, y = 0.5 - size / width / 2, 0.5 - size / height / 2
      return left, top, np.array([x, y, x + size / width, y + size / height])
    left = int(hashing.below(width - size + 1, draw, _LEFT))
    top = int(hashing.below(height - size + 1, draw, _TOP))
    box = np.array([left, top, left + size, top + size], np.float64)
    return left, top, box / (width, height, width, height)


def to_float(image: jax.Array) -> jax.Array:
  """Maps uint8 to float32 in [-1, 1], `x / 127.5 - 1`, on the device."""
  # In this order 255 stays 1 when XLA multiplies by the rounded reciprocal.
  return (jnp.asarray(image, jnp.float32) - 127.5) / 127.5


def finish(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Makes the uint8 pictures of a batch float32 in [-1, 1], on the device.

  These are `image` and `lr_image`; maps of numbers stay what they are.
  """
  out = dict(batch)
  for name in ('image', 'lr_image'):
    if name in out:
      out[name] = to_float(out[name])
  return out
