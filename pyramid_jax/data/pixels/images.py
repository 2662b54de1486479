"""Image files: safe decoding, and images on the device."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import io
import os
import pathlib
import struct
from typing import Any
from typing import BinaryIO
from typing import TypeVar
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from pyramid_jax import limits
from pyramid_jax.data.pixels import encoded_images
from pyramid_jax.files import bounded
from pyramid_jax.files import retries
from pyramid_jax.files import stores


# The formats of Pillow that are read, by content. Those whose decoders start
# programs or draw (EPS, PDF, WMF) stay out.
FORMATS = (
  *('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'AVIF', 'JPEG2000'),
  'PPM',
)
SUFFIXES = (
  *('.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.png', '.apng', '.webp'),
  *('.gif', '.bmp', '.tif', '.tiff', '.avif', '.avifs'),
  *('.jp2', '.j2k', '.jpc', '.jpf', '.jpx', '.j2c'),
  *('.ppm', '.pgm', '.pbm', '.pnm', '.pfm'),
)
T = TypeVar('T')

# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (
  *(OSError, SyntaxError, ValueError, EOFError, RuntimeError),
  *(struct.error, zlib.error),
  *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
_ORIENTATION = 0x0112  # in EXIF
# How an image of an orientation becomes upright; from 5 on the sides change.
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


class BrokenImage(Exception):
  """A file that is not a usable image: its path, and the reason."""

  def __init__(self, path: str | os.PathLike, reason: str):
    super().__init__(f'{path}: {reason}')
    self.path = str(path)
    self.reason = reason


def load_bytes(path: pathlib.Path) -> bytes:
  """Returns the content of a file; transient errors are retried.

  Raises:
    BrokenImage: no such file, no regular file, or a large one.
  """
  with unreadable(path):
    most = limits.IMAGE_BYTES
    return retries.repeat(lambda: bounded.read(path, most), path)


@contextlib.contextmanager
def unreadable(path: str | os.PathLike) -> Iterator[None]:
  """Makes a BrokenImage of what opening and reading a file raises."""
  try:
    yield
  except OSError as error:
    raise BrokenImage(path, error.strerror or str(error)) from error
  except ValueError as error:  # a name with a null character, too
    raise BrokenImage(path, str(error)) from error


def orientation(image: Image.Image) -> int:
  """Returns the EXIF orientation, 1 (upright) to 8.

  It is 1 where there is none, where EXIF has none of these values, and where
  its data are damaged.
  """
  try:
    value = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # Whatever Pillow raises on damaged EXIF data.
    return 1
  return value if value in range(1, 9) else 1


def turn_upright(image: Image.Image) -> Image.Image:
  """Returns an image turned as its EXIF orientation says."""
  image.load()  # Pillow turns TIFF files itself, here.
  turn = _TURNS.get(orientation(image))
  return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image.Image) -> Image.Image:
  """Returns an image of 16 or 32 bits a pixel with 8 bits.

  Integers lose their lower byte, or nothing if none exceeds 255 and there are
  32 bits; floats lie in [0, 1], or in [0, 255] if one is larger than 1.
  """
  if not image.mode.startswith(('I', 'F')):
    return image
  values = np.asarray(image)
  if image.mode == 'F':
    values = np.nan_to_num(values, posinf=np.inf, neginf=-np.inf)
    values = np.rint(values * (255 if values.max(initial=0) <= 1 else 1))
  elif image.mode != 'I' or values.max(initial=0) > 255:
    values = values.astype(np.int64) >> 8
  grey = Image.fromarray(values.clip(0, 255).astype(np.uint8))
  clear = image.info.get('transparency')
  if clear is None:
    return grey
  opaque = np.where(np.asarray(image) == clear, np.uint8(0), np.uint8(255))
  return Image.merge('LA', (grey, Image.fromarray(opaque)))


def to_rgba(image: Image.Image) -> np.ndarray:
  """Returns (H, W, 4) uint8; the last channel is 255 where nothing is clear."""
  return np.asarray(_eight_bit(image).convert('RGBA'))


def rgb(image: Image.Image) -> Image.Image:
  """Returns an image of the mode RGB; transparency is laid on white."""
  image = _eight_bit(image)
  if image.has_transparency_data:
    image = image.convert('RGBA')
    paper = Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(paper, image)
  return image if image.mode == 'RGB' else image.convert('RGB')


def to_rgb(image: Image.Image) -> np.ndarray:
  """Returns (H, W, 3) uint8; transparency is laid on white."""
  return np.asarray(rgb(image))


def decode_as(
  data: bytes,
  path: str | os.PathLike,
  convert: Callable[[Image.Image], T],
  least: int = 0,
) -> T:
  """Opens the bytes of a file safely and converts the loaded image.

  `least` is that of `decode_image`.

  Raises:
    BrokenImage: see `read`.
  """
  with decoder_errors(path):
    encoded_images.check(data)
    with _opened(io.BytesIO(data)) as file:
      check_pixels(file, path)
      _reduce(file, least)
      file.load()
      encoded_images.check_rows(file, data)
      return convert(file)


def _opened(stream: BinaryIO) -> Image.Image:
  """Opens an image of one of `FORMATS`."""
  source = encoded_images.Reads(stream, limits.IMAGE_HEADER_READS)
  image = Image.open(source, formats=FORMATS)  # type: ignore[arg-type]
  source.left = limits.IMAGE_READS
  return image


def check_pixels(image: Image.Image, path: str | os.PathLike) -> None:
  """Raises BrokenImage if an image is larger than any that is read."""
  width, height = image.size
  most, side = limits.IMAGE_PIXELS, limits.IMAGE_SIDE
  size = f'{width}x{height} px'
  if width * height > most:
    raise BrokenImage(path, f'{size}, at most {most} pixels are read')
  if max(width, height) > side:
    raise BrokenImage(path, f'{size}, sides of at most {side} are read')


@contextlib.contextmanager
def decoder_errors(path: str | os.PathLike) -> Iterator[None]:
  """Makes a BrokenImage of what a decoder raises on a damaged file."""
  try:
    yield
  except Image.UnidentifiedImageError:
    raise BrokenImage(path, f'not one of {", ".join(FORMATS)}') from None
  except _DECODER_ERRORS as error:
    raise BrokenImage(path, str(error) or type(error).__name__) from error


def read(path: str | os.PathLike, upright: bool = False) -> np.ndarray:
  """Decodes a file of one of `FORMATS`; the size is checked before decoding.

  Grey images become three equal channels, CMYK is converted by Pillow,
  transparency is laid on white, 16-bit values lose their lower byte, and of
  an animation the first image counts. `upright` applies the EXIF orientation:
  not for annotated data, whose boxes belong to the pixels as they are stored.

  Returns:
    (H, W, 3) uint8.

  Raises:
    BrokenImage: no such file, another format, too large, or damaged.
  """
  return decode(load_bytes(stores.path(path)), path, upright)


def size(path: pathlib.Path) -> tuple[int, int]:
  """Returns height and width of an upright image, from the file's header.

  Raises:
    BrokenImage: no such file, another format, or a damaged header.
  """
  with unreadable(path):
    stream = bounded.opened(path, limits.IMAGE_BYTES)
  with stream:
    return size_of(stream, path)


def size_of(stream: BinaryIO, name: str | os.PathLike) -> tuple[int, int]:
  """Returns height and width of an image in an open file, see `size`."""
  with decoder_errors(name), _opened(stream) as file:
    width, height = file.size
    # Of a TIFF file, Pillow gives the size of the upright image.
    turned = orientation(file) >= 5 and file.format != 'TIFF'
  return (width, height) if turned else (height, width)


def decode(
  data: bytes, name: str | os.PathLike, upright: bool = False
) -> np.ndarray:
  """Decodes the bytes of an image file; `name` is for errors, see `read`."""
  return np.asarray(decode_image(data, name, upright))


def decode_image(
  data: bytes,
  name: str | os.PathLike,
  upright: bool = False,
  least: int = 0,
) -> Image.Image:
  """Decodes as `decode`, to an image of the mode RGB.

  What is cut and resized next needs no array of all pixels: making one and an
  image of it again takes a third of the time of decoding.

  With `least` above 0 a JPEG is decoded at a half, a quarter or an eighth of
  its size where its shorter side keeps so many pixels. libjpeg then computes
  fewer coefficients of its blocks; pixels are close to means over areas, and
  not the same.
  """
  turn = turn_upright if upright else lambda image: image
  return decode_as(data, name, lambda file: rgb(turn(file)), least)


def _reduce(image: Image.Image, least: int) -> None:
  """Has a JPEG that is not yet loaded decoded at a smaller size."""
  sizes = ((image.width // x, image.height // x) for x in (8, 4, 2))
  size = next((x for x in sizes if min(x) >= least), None)
  if least and size and image.format == 'JPEG':
    image.draft(None, size)


def decode_rgba(data: bytes, name: str | os.PathLike) -> np.ndarray:
  """Decodes the bytes of an image file with its opacity, upright; see `read`.

  Returns:
    (H, W, 4) uint8; the last channel is 255 where the file has no opacity.
  """
  return decode_as(data, name, lambda file: to_rgba(turn_upright(file)))


def read_map(path: str | os.PathLike) -> np.ndarray:
  """Decodes a map of classes: the values themselves, not their colours.

  The file has 8-bit grey values or a palette, the result is (H, W) uint8.

  Raises:
    BrokenImage: see `read`; or pixels of another kind.
  """
  return decode_map(load_bytes(stores.path(path)), path)


def decode_map(data: bytes, path: str | os.PathLike) -> np.ndarray:
  """Decodes the bytes of a map of classes, see `read_map`."""
  return decode_as(data, path, lambda file: to_classes(file, path))


def to_classes(image: Image.Image, path: str | os.PathLike) -> np.ndarray:
  """Returns the classes (H, W) uint8 of an image of grey values or a palette.

  Raises:
    BrokenImage: pixels of another kind.
  """
  if image.mode not in ('L', 'P'):
    raise BrokenImage(
      path,
      f'pixels of the mode {image.mode}, a map of classes has 8-bit grey'
      ' values or a palette',
    )
  return np.asarray(image)


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


# How images in [-1, 1] become uint8, by `config.sample.to_uint8`.
TO_UINT8: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  # The nearest value, that of an image which was uint8.
  'round': lambda x: jnp.round((x + 1.0) * 127.5),
  # CompVis/latent-diffusion: scripts/sample_diffusion.py, custom_to_np, which
  # Frido, ADM and DiffiT do, too.
  'truncate': lambda x: jnp.floor((x + 1.0) * 127.5),
  # facebookresearch/DiT: sample_ddp.py; NVlabs/edm: generate.py.
  'half_up': lambda x: jnp.clip(jnp.floor(127.5 * x + 128.0), 0.0, 255.0),
}


def to_uint8(images: Any, rule: str = 'round') -> jax.Array:
  """Returns images in [-1, 1] as uint8, on the device.

  Args:
    images: of any shape; what lies outside of the range is clipped.
    rule: a key of `TO_UINT8`.
  """
  images = jnp.clip(jnp.asarray(images, jnp.float32), -1.0, 1.0)
  return TO_UINT8[rule](images).astype(jnp.uint8)


# Images of a batch in [-1, 1], uint8 before `finish`.
SIGNED = ('image', 'lr_image', 'sketch')


def finish(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Makes the uint8 images of a batch float32 in [-1, 1], on the device.

  These are `image`, `lr_image` and `sketch`; `edges` come to lie in [0, 1],
  and maps of numbers stay as they are.
  """
  out = dict(batch)
  for name in SIGNED:
    if name in out:
      out[name] = to_float(out[name])
  if 'edges' in out:
    out['edges'] = jnp.asarray(out['edges'], jnp.float32) / 255
  return out
