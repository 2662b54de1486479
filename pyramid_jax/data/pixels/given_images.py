"""Images that a person hands in: a path, an image of Pillow, or an array.

Each function returns the same host array for the same pixels, however they are
given. Arrays are (H, W) or (H, W, C) with 1 to 4 channels: grey, with opacity,
RGB, with opacity; booleans, integers in [0, 255] or floats in [0, 1]. A file
and an image of Pillow are turned as their EXIF data say.

`name` is what errors and logs call the input: '--image' of the command line,
or 'image'. All errors are a UserError of one line.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import os
import pathlib

from absl import logging
import numpy as np
from PIL import Image

from pyramid_jax import errors
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import masks
from pyramid_jax.data.pixels import sketch_files
from pyramid_jax.files import stores


Given = str | os.PathLike[str] | Image.Image | np.ndarray


def image(value: Given, name: str) -> np.ndarray:
  """Returns (H, W, 3) uint8; transparency is laid on white, which is logged."""

  with _named(value, name):
    opened = _upright(value, name)
    clear = (images.to_rgba(opened)[..., 3] < 255).mean()
    if clear:
      logging.warning(
        '%s is transparent in %.1f %% of its pixels, which are laid on white',
        *(title(value, name), 100 * clear),
      )
    return images.to_rgb(opened)


def mask(value: Given, name: str) -> np.ndarray:
  """Returns (H, W) bool, True where pixels are made anew; see `masks`."""
  with _named(value, name):
    return masks.from_image(_upright(value, name), title(value, name))


def class_map(value: Given, name: str) -> np.ndarray:
  """Returns (H, W) uint8, the classes of a semantic map; see `images.read_map`.

  An array has the classes themselves, whole numbers of any type.
  """
  if isinstance(value, str | os.PathLike | Image.Image):
    with _named(value, name):
      return images.to_classes(_upright(value, name), name)
  array = np.asarray(value)
  array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
  classes = array.astype(np.uint8)
  if array.ndim != 2 or not array.size or (classes != array).any():
    raise errors.UserError(
      f'{name}: an array {array.shape} {array.dtype}; a map of classes is'
      ' (H, W) whole numbers in [0, 255].'
    )
  return classes


def sketch(value: Given, name: str) -> np.ndarray:
  """Returns (H, W, 4) uint8, colour and opacity; a path may be of an SVG."""
  with _named(value, name):
    if isinstance(value, str | os.PathLike):
      return sketch_files.read(existing(value, name))
    return images.to_rgba(_upright(value, name))


def agree(pixels: np.ndarray, hole: np.ndarray, names: Sequence[str]) -> None:
  """Raises a UserError unless an image and its mask have the same size.

  `names` are those of both, with their paths where they have one.
  """
  sizes = [f'{x.shape[1]} x {x.shape[0]} px' for x in (hole, pixels)]
  if sizes[0] != sizes[1]:
    raise errors.UserError(
      f'{names[1]} is {sizes[0]}, {names[0]} {sizes[1]}; they must agree.'
    )


def title(value: Given, name: str) -> str:
  """Returns the name with the path, if there is one."""
  is_path = isinstance(value, str | os.PathLike)
  return f'{name}={value}' if is_path else name


def existing(value: str | os.PathLike[str], name: str) -> pathlib.Path:
  """Returns the path of a file; one that is not there is a UserError."""
  path = stores.path(value).expanduser()
  if path.is_dir():
    raise errors.UserError(
      f'{name}={path}: a folder, must be a file.', errors.MISSING
    )
  if not path.exists():
    raise errors.UserError(f'{name}={path}: not there.', errors.MISSING)
  return path


@contextlib.contextmanager
def _named(value: Given, name: str) -> Iterator[None]:
  """Names the input in errors of its content."""
  code = errors.DATA if isinstance(value, str | os.PathLike) else errors.USAGE
  try:
    yield
  except images.BrokenImage as error:
    named = title(value, name)
    raise errors.UserError(f'{named}: {error.reason}.', code) from error
  except errors.UserError:
    raise
  except ValueError as error:
    raise errors.UserError(f'{title(value, name)}: {error}.', code) from error


def _upright(value: Given, name: str) -> Image.Image:
  """Returns the loaded, upright image that a value is."""
  if isinstance(value, str | os.PathLike):
    path = existing(value, name)
    copied = lambda file: images.turn_upright(file).copy()
    return images.decode_as(images.load_bytes(path), path, copied)
  if not isinstance(value, Image.Image):
    return _of_array(value)
  images.check_pixels(value, name)
  with images.decoder_errors(name):
    return images.turn_upright(value)


def _of_array(value: np.ndarray) -> Image.Image:
  """Returns an array as an image of 8 bits.

  Raises:
    ValueError: another shape, type or range.
  """
  array = np.asarray(value)
  array = array[..., None] if array.ndim == 2 else array
  if array.ndim != 3 or not 1 <= array.shape[2] <= 4 or not array.size:
    raise ValueError(
      f'an array {np.shape(value)}, must be (H, W) or (H, W, C) with 1 to 4'
      ' channels'
    )
  kind = array.dtype.kind
  if kind not in 'buif':
    raise ValueError(f'an array of {array.dtype}, must be of numbers')
  low, high = array.min(), array.max()
  white = 255
  if kind in 'bf' or (low >= 0 and high <= 1 and array.shape[2] == 1):
    white = 1
  elif array.dtype == np.uint16 and high > 255:
    white = 65535
  if not (low >= 0 and high <= white):
    raise ValueError(
      f'an array of {array.dtype} in [{low:g}, {high:g}], must lie in'
      f' [0, {white}]'
    )
  pixels = array >> 8 if white > 255 else np.rint(array * (255.0 / white))
  modes = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
  channels = np.moveaxis(pixels.astype(np.uint8), 2, 0)
  return Image.merge(modes[len(channels)], [*map(Image.fromarray, channels)])
