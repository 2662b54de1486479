"""Masks of holes as drawing programs write them: which pixels are painted."""

from absl import logging
import numpy as np
from PIL import Image

from pyramid_jax import limits
from pyramid_jax.data.pixels import images


CONSTANT = 0.25  # The largest range of colours that say nothing; white is 1.
COLOURED = 0.25  # range of the channels of a coloured pixel
MOST_COLOURED = 0.05  # share of pixels whose colours differ in brightness
GREY = (0.1, 0.9)  # neither black nor white
_ENOUGH = 1 << 22  # values of a distribution
SOFT = 0.02  # share of grey pixels from which on the threshold is logged
# What is white, by the largest value: of masks of 0 and 1, of 8 and 16 bits.
# A larger value is itself white.
_WHITES = (1, 255, 65535)


def from_image(image: Image.Image, name: str) -> np.ndarray:
  """Returns (H, W) bool, True where an upright mask asks for new pixels.

  These are the white ones: their largest channel has at least half of what
  white is. If pixels are transparent and the visible ones are of one colour,
  the opacity is the mask, whether its strokes are white or black; if they are
  of several, what is transparent is kept.

  Args:
    image: a mask of any mode.
    name: what logs call it, such as '--mask=m.png'.

  Raises:
    ValueError: one line without `name`: nothing is painted, or the mask is a
      photograph.
  """
  width, height = image.size
  if width * height > limits.MASK_PIXELS:
    raise ValueError(
      f'{width}x{height} px, of a mask at most {limits.MASK_PIXELS} pixels are'
      ' read'
    )
  rgb, opacity = _channels(image)
  top = float(opacity.max()) or 1.0
  visible = rgb[opacity >= 0.9 * opacity.max()]
  if opacity.min() < 1 and _range(visible, axis=0).max() < CONSTANT:
    values = opacity / top
  else:
    _refuse_photographs(visible)
    values = rgb.max(-1) * opacity / top
  painted = values >= 0.5
  if not painted.any():
    raise ValueError(
      'the mask has no hole; what is white is painted, or strokes on a'
      ' transparent layer'
    )
  grey = ((values > GREY[0]) & (values < GREY[1])).mean()
  if grey > SOFT:
    logging.info(
      '%s is grey in %.0f %% of its pixels; those of at least half of the'
      ' white are painted',
      *(name, 100 * grey),
    )
  share = 'all' if painted.all() else f'{painted.mean():.1%}'
  logging.info('%s paints %s of the image', name, share)
  return painted


def _channels(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
  """Returns colours (H, W, 3 or 1) and opacity (H, W), 1 = white, opaque."""
  rgba = images.to_rgba(image).astype(np.float32)
  rgba /= 255
  if (
    not image.mode.startswith(('1', 'L', 'I', 'F')) or (rgba[..., 3] < 1).any()
  ):
    return rgba[..., :3], rgba[..., 3]
  is_byte = image.mode in ('1', 'L', 'LA')
  values = np.asarray(image.convert('L') if is_byte else image)
  values = np.nan_to_num(values.astype(np.float64))
  top = max(float(values.max()), 0.0)
  values = values / next((white for white in _WHITES if top <= white), top)
  return values[..., None], rgba[..., 3]


def _range(values: np.ndarray, axis: int | None = None) -> np.ndarray:
  """Returns the range of values without a hundredth at both ends.

  Of very many values, so many that are evenly spread stand for all.
  """
  values = values[:: 1 + len(values) // _ENOUGH]
  return np.ptp(np.quantile(values, [0.01, 0.99], axis=axis), axis=0)


def _refuse_photographs(rgb: np.ndarray) -> None:
  """Raises a ValueError if colours (N, 3) differ as a photograph's do."""
  coloured = rgb[np.ptp(rgb, axis=-1) > COLOURED]
  if len(coloured) <= MOST_COLOURED * len(rgb):
    return
  if _range(coloured.max(-1)) > CONSTANT:
    raise ValueError(
      f'{len(coloured) / len(rgb):.0%} of its visible pixels are of several'
      ' colours: this is a photograph; a mask is white where it is painted, or'
      ' has strokes on a transparent layer'
    )
