"""Semantic maps that lie beside images, checked against them and cropped."""

import numpy as np

from pyramid_jax import errors
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import transforms


def decode(
  data: bytes,
  where: str,
  shape: tuple[int, ...],
  classes: int,
  shift: int = 0,
) -> np.ndarray:
  """Decodes the map of an image of a shape (H, W, ...).

  Args:
    data: 8-bit grey values or a palette, encoded.
    where: what messages call the file.
    shape: of the image.
    classes: how many there may be, `config.condition.map_classes`.
    shift: is added to all values, modulo 256.

  Returns:
    (H, W) uint8.

  Raises:
    BrokenImage: it is of another size or damaged.
    UserError: a class beyond the table.
  """
  found = images.decode_map(data, where) + np.uint8(shift)
  if found.shape != shape[:2]:
    raise images.BrokenImage(
      where,
      f'{found.shape[1]}x{found.shape[0]} px, its image has'
      f' {shape[1]}x{shape[0]}',
    )
  if found.max() >= classes:
    raise errors.UserError(
      f'{where} has the class {found.max()}, must be below'
      f' config.condition.map_classes = {classes}.',
      errors.DATA,
    )
  return found


def cut(
  values: np.ndarray,
  transform: transforms.Transform,
  crop: np.ndarray,
  flipped: bool,
) -> np.ndarray:
  """Cuts a map (H, W) as `transform` cut its image, see its result."""
  box = transform.pixel_crop(values.shape, crop)
  return transforms.cut_map(values, box, transform.size, flipped)
