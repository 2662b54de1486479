"""Image files: safe decoding, and images on the device."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import errno
import io
import os
import pathlib
import struct
import time
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from PIL import ImageOps


FORMATS = ('JPEG', 'PNG', 'WEBP')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')
MAX_PIXELS = 64_000_000
MAX_BYTES = 1 << 28

# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (
  *(OSError, SyntaxError, ValueError, EOFError, RuntimeError),
  *(struct.error, zlib.error),
  *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
# Errors of a slow or remote disk that may not occur a second time.
_TRANSIENT = (errno.EIO, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE)
_ORIENTATION = 0x0112  # in EXIF; above 4 the sides are exchanged
_PAUSES_SECS = (0.05, 0.2, 0.8)


class BrokenImage(Exception):
  """A file that is not a usable image: its path, and the reason."""

  def __init__(self, path: str | os.PathLike, reason: str):
    super().__init__(f'{path}: {reason}')
    self.path = str(path)
    self.reason = reason


def load_bytes(path: pathlib.Path) -> bytes:
  """Returns the content of a file; transient errors are retried.

  Raises:
    BrokenImage: no such file, or more than `MAX_BYTES`.
  """
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


def _eight_bit(image: Image.Image) -> Image.Image:
  """Returns an image of 16 bits a pixel without the lower byte."""
  if not image.mode.startswith('I'):
    return image
  grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255)
  return Image.fromarray(grey.astype(np.uint8))


def _to_rgb(image: Image.Image) -> np.ndarray:
  image = _eight_bit(image)
  if image.has_transparency_data:
    image = image.convert('RGBA')
    paper = Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(paper, image)
  return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))


def _decode(
  data: bytes,
  path: str | os.PathLike,
  convert: Callable[[Image.Image], np.ndarray],
) -> np.ndarray:
  """Opens a file safely and converts what is in it."""
  with _opened(io.BytesIO(data), path) as file:
    width, height = file.size
    if width * height > MAX_PIXELS:
      raise BrokenImage(
        path, f'{width}x{height} px, at most {MAX_PIXELS} pixels are read'
      )
    file.load()
    return convert(file)


@contextlib.contextmanager
def _opened(source: Any, path: str | os.PathLike) -> Iterator[Image.Image]:
  """Opens a file or a stream; what the decoder raises is a BrokenImage."""
  try:
    with Image.open(source, formats=FORMATS) as file:
      yield file
  except Image.UnidentifiedImageError:
    raise BrokenImage(path, f'not one of {", ".join(FORMATS)}') from None
  except _DECODER_ERRORS as error:
    raise BrokenImage(path, str(error) or type(error).__name__) from error


def read(path: str | os.PathLike, upright: bool = False) -> np.ndarray:
  """Decodes a JPEG, PNG or WebP file; the size is checked before decoding.

  Grey images become three equal channels, CMYK is converted by Pillow,
  transparency is laid on white, 16-bit values lose their lower byte, and of
  an animation the first image counts. `upright` applies the EXIF orientation:
  not for annotated data, whose boxes belong to the pixels as they are stored.

  Returns:
    (H, W, 3) uint8.

  Raises:
    BrokenImage: no such file, another format, more than `MAX_PIXELS`, or
      damaged.
  """
  return decode(load_bytes(pathlib.Path(path)), path, upright)


def size(path: pathlib.Path) -> tuple[int, int]:
  """Returns height and width of an upright image, from the file's header.

  Raises:
    BrokenImage: no such file, another format, or a damaged header.
  """
  with _opened(path, path) as file:
    width, height = file.size
    turned = file.getexif().get(_ORIENTATION, 1) > 4
  return (width, height) if turned else (height, width)


def decode(
  data: bytes, name: str | os.PathLike, upright: bool = False
) -> np.ndarray:
  """Decodes the bytes of an image file; `name` is for errors, see `read`."""
  turn = ImageOps.exif_transpose if upright else lambda image: image
  return _decode(data, name, lambda file: _to_rgb(turn(file)))


def decode_rgba(data: bytes, name: str | os.PathLike) -> np.ndarray:
  """Decodes the bytes of an image file with its opacity, upright; see `read`.

  Returns:
    (H, W, 4) uint8; the last channel is 255 where the file has no opacity.
  """
  turn = ImageOps.exif_transpose
  convert = lambda file: np.asarray(_eight_bit(turn(file)).convert('RGBA'))
  return _decode(data, name, convert)


def read_map(path: str | os.PathLike) -> np.ndarray:
  """Decodes a map of classes: the values themselves, not their colours.

  The file is a PNG of 8-bit grey values or with a palette, the result (H, W)
  uint8.

  Raises:
    BrokenImage: as `read`, or pixels of another kind.
  """

  def convert(file: Image.Image) -> np.ndarray:
    if file.mode not in ('L', 'P'):
      raise BrokenImage(
        path,
        f'pixels of the mode {file.mode}, a map of classes has 8-bit grey'
        ' values or a palette',
      )
    return np.asarray(file)

  return _decode(load_bytes(pathlib.Path(path)), path, convert)


def check_batch(images: np.ndarray) -> np.ndarray:
  """Returns `images` if they are (N, H, W, 3) uint8, or raises a ValueError."""
  if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
    raise ValueError(
      f'images must be (N, H, W, 3) uint8, got {images.shape} {images.dtype}.'
    )
  return images


def to_float(image: jax.Array) -> jax.Array:
  """Maps uint8 to float32 in [-1, 1], `x / 127.5 - 1`, on the device."""
  # In this order 255 stays 1 when XLA multiplies by the rounded reciprocal.
  return (jnp.asarray(image, jnp.float32) - 127.5) / 127.5


def to_uint8(images: Any) -> jax.Array:
  """Returns the nearest uint8 values of images in [-1, 1], on the device."""
  images = jnp.clip(jnp.asarray(images, jnp.float32), -1.0, 1.0)
  return jnp.round((images + 1.0) * 127.5).astype(jnp.uint8)


def finish(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Makes the uint8 images of a batch float32 in [-1, 1], on the device.

  These are `image`, `lr_image` and `sketch`; `edges` come to lie in [0, 1],
  and maps of numbers stay as they are.
  """
  out = dict(batch)
  for name in ('image', 'lr_image', 'sketch'):
    if name in out:
      out[name] = to_float(out[name])
  if 'edges' in out:
    out['edges'] = jnp.asarray(out['edges'], jnp.float32) / 255
  return out
