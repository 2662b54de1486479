"""Images of a request as rows: maps, holes, sketches, finished scales.

A value is an image, or several of them; rows are (N, ...) with one for each.
What cannot be used is a UserError that names the input.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import os
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.conditioning import request as rows_lib
from pyramid_jax.conditioning import sketches
from pyramid_jax.data.caches import stored_arrays
from pyramid_jax.data.pixels import given_images
from pyramid_jax.data.pixels import transforms


Rows = dict[str, np.ndarray]
Shape = tuple[int, int]  # height and width of the images, px
_ROWS = 256  # rows of finished scales that are looked at together
_REAL = 'biuf'  # kinds of types of numbers


def semantic_maps(value: Any, config: ConfigDict, shape: Shape) -> Rows:
  """Returns `mask` (N, H, W) uint8 of maps of classes."""
  return _stacked(_map(x, config, shape) for x in _several(value, is_flat=True))


def low_resolution(value: Any, config: ConfigDict, shape: Shape) -> Rows:
  """Returns `lr_image` (N, h, w, 3) uint8 of images to enlarge."""
  small = [given_images.image(x, 'image') for x in _several(value)]
  return _stacked(rows_lib.from_low_resolution(x, config, shape) for x in small)


def squares(value: Any, config: ConfigDict) -> Rows:
  """Returns `image` (N, H, W, 3) uint8 of images of any size."""
  images = [given_images.image(x, 'image') for x in _several(value)]
  return {'image': np.stack([_fitted(x, config)[0] for x in images])}


def with_holes(image: Any, mask: Any, config: ConfigDict, shape: Shape) -> Rows:
  """Returns `image` and `inpaint_mask` (N, H, W) of images and their masks.

  One mask serves all images, and one image all masks.
  """
  images, masks = _several(image), _several(mask, is_flat=True)
  if len(masks) == 1:
    masks = masks * len(images)
  elif len(images) == 1:
    images = images * len(masks)
  if len(images) != len(masks):
    raise errors.UserError(
      f'there are {len(images)} images and {len(masks)} masks; give one mask'
      ' for all, or one for each.'
    )
  pairs = zip(images, masks, strict=True)
  return _stacked(_with_hole(*pair, config, shape) for pair in pairs)


def sketched(value: Any, config: ConfigDict) -> Rows:
  """Returns `sketch` (N, H, W) uint8, 255 = line."""
  rows = []
  for one in _several(value):
    pixels = given_images.sketch(one, 'sketch')
    try:
      rows.append(sketches.from_image(pixels, config.data.image_size))
    except ValueError as error:
      raise errors.UserError(
        f'{given_images.title(one, "sketch")}: {error}.', errors.DATA
      ) from error
  return _stacked(rows)


def finished_scales(value: Any) -> tuple[Any, ...]:
  """Returns the scales of a `latents.npz` or of a list, coarse first.

  They have rows (N, ...), those of a file are read when they are needed; None
  gives none.

  Raises:
    UserError: a file without scales or that is damaged, arrays of other axes
      or types, or NaN or Inf in them.
  """
  if value is None:
    return ()
  if not isinstance(value, str | os.PathLike):
    arrays = value if isinstance(value, list | tuple) else [value]
    given = tuple(map(_scale, range(len(arrays)), arrays))
    with errors.user_errors():
      _check_scales(given)
    return given
  path = given_images.existing(value, 'coarse_latent')
  try:
    found = stored_arrays.read(path)
  except ValueError as error:
    raise errors.UserError(f'coarse_latent={error}.', errors.DATA) from error
  names = [f'latent_{scale}' for scale in range(len(found))]
  scales = tuple(found[name] for name in names if name in found)
  if not scales:
    raise errors.UserError(
      f'coarse_latent={path}: has no array latent_0, only {sorted(found)}.',
      errors.DATA,
    )
  with errors.user_errors(value=errors.DATA):
    _check_scales(scales)
  return scales


def _scale(number: int, value: Any) -> np.ndarray:
  """Returns a finished scale as an array, whatever was given."""
  try:
    return np.asarray(value)
  except ValueError:  # rows of several lengths
    raise errors.UserError(
      f'coarse_latent: scale {number} is {errors.shown(value)}, must be an'
      ' array of numbers (N, h, w, C).'
    ) from None


def _check_scales(scales: Sequence[Any]) -> None:
  """Raises ValueError for other axes or types, and for NaN or Inf."""
  for number, scale in enumerate(scales):
    name = f'coarse_latent: scale {number}'
    if (
      len(scale.shape) != 4 or 0 in scale.shape or scale.dtype.kind not in _REAL
    ):
      raise ValueError(
        f'{name} is an array {scale.shape} of {scale.dtype}, must be one of'
        ' numbers (N, h, w, C)'
      )
    for start in range(0, len(scale), _ROWS):
      rows = scale[np.arange(start, min(start + _ROWS, len(scale)))]
      with np.errstate(over='ignore'):  # float32 has no larger numbers
        finite = np.isfinite(rows.astype(np.float32)).all((1, 2, 3))
      if not finite.all():
        bad = start + np.flatnonzero(~finite)[0]
        raise ValueError(f'{name} has NaN or Inf in its row {bad}')


def _several(value: Any, is_flat: bool = False) -> list[Any]:
  """Returns the images of a value, one of which stands for itself.

  An array (N, H, W, C) has several; so has (N, H, W) where `is_flat`, of maps
  and masks. Elsewhere three axes are one image, whose channels are last.
  """
  if isinstance(value, list | tuple):
    return list(value)
  shape: tuple[int, ...] = getattr(value, 'shape', ())  # of an array
  is_many = len(shape) > 3 or (is_flat and len(shape) == 3 and shape[-1] > 4)
  return list(np.asarray(value)) if is_many else [value]


def _stacked(parts: Iterable[Rows]) -> Rows:
  """Joins rows of several values, one after the other."""
  rows = list(parts)
  return {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}


def _map(value: Any, config: ConfigDict, shape: Shape) -> Rows:
  classes = given_images.class_map(value, 'map')
  _warn_of_crop('map', classes.shape, shape)
  crop = transforms.middle(classes.shape, shape)
  return rows_lib.from_map(transforms.cut_map(classes, crop, shape), config)


def _with_hole(image: Any, mask: Any, config: ConfigDict, shape: Shape) -> Rows:
  pixels = given_images.image(image, 'image')
  hole = given_images.mask(mask, 'mask')
  names = given_images.title(image, 'image'), given_images.title(mask, 'mask')
  given_images.agree(pixels, hole, names)
  part, crop = _fitted(pixels, config, shape)
  return rows_lib.from_holes(part, transforms.cut_map(hole, crop, shape))


def _fitted(
  pixels: np.ndarray, config: ConfigDict, shape: Shape | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the middle at the size that is sampled, and where it was."""
  size = config.data.image_size
  shape = shape or (size, size)
  _warn_of_crop('image', pixels.shape, shape)
  fit = transforms.Transform(size=size, resize=transforms.resize_bicubic)
  part, crop, _ = fit(pixels, 0, shape)
  return part, crop


def _warn_of_crop(name: str, given: tuple[int, ...], shape: Shape) -> None:
  (height, width), (rows, columns) = given[:2], shape
  if height * columns != width * rows:
    part = 'square' if rows == columns else f'part of {columns} : {rows}'
    logging.warning(
      '%s is %d x %d px; it is cropped to the %s in its middle.',
      *(name, width, height, part),
    )
