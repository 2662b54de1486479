"""Sketches of users: from pixels to white lines on black."""

import numpy as np
from PIL import Image

from pyramid_jax.conditioning import edges


INK = 0.5  # least darkness of a line, 1 being that of the darkest
# Pixels are neither paper nor line if their brightness lies between these, or
# their channels differ by more; a sketch has at most that share of them.
MIDDLE = (0.25, 0.75)
COLOURED = 0.35
MOST_OTHER = 0.4
KEPT = 0.4  # least ink of a line's pixel, relative to its neighbours
CONTRAST = 0.1  # least range of brightness


def from_image(pixels: np.ndarray, size: int) -> dict[str, np.ndarray]:
  """Returns the row of a sketch of any size, dark on light or the reverse.

  The rarer brightness is the line. The sketch is padded to a square. Lines
  survive, however thin they become: a pixel is a line if it has `KEPT` of the
  ink of the fullest adjacent pixel.

  Args:
    pixels: (H, W, 4) uint8, red, green, blue and opacity.
    size: the length of a side, px.

  Returns:
    `sketch` (1, size, size) uint8, 255 = line, 0 = none.

  Raises:
    ValueError: there is no line, or it is a photograph.
  """
  ink = _squared(_ink(pixels))
  if not ink.any():
    raise ValueError('the sketch is empty')
  lines = _resized(ink, size)
  return {'sketch': np.where(lines, np.uint8(255), np.uint8(0))[None]}


def _ink(pixels: np.ndarray) -> np.ndarray:
  """Returns (H, W) bool, True on lines."""
  colour, opacity = _on_paper(pixels)
  if opacity is not None:
    return opacity >= INK
  bright = colour @ np.array(edges.LUMA, np.float32)
  low, high = float(bright.min()), float(bright.max())
  if high - low < CONTRAST:
    return np.zeros(bright.shape, bool)
  bright = (bright - low) / (high - low)
  _refuse_photographs(colour, bright)
  dark = bright < INK
  return dark if dark.mean() <= 0.5 else ~dark


def _on_paper(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns colours in [0, 1], and the opacity if it alone shows the lines.

  That is so for lines of one brightness. Others lie on white, or, if most of
  the image is opaque, on its median colour.
  """
  colour = pixels[..., :3].astype(np.float32) / 255
  opacity = pixels[..., 3].astype(np.float32) / 255
  seen = opacity >= 0.5
  if opacity.min() == 1:
    return colour, None
  if not seen.any():
    return colour, opacity
  tones = (colour @ np.array(edges.LUMA, np.float32))[seen]
  low, high = np.quantile(tones, [0.002, 0.998])
  if seen.mean() > 0.5:
    paper = np.median(colour[seen], axis=0)
  elif high - low < 0.5:
    return colour, opacity
  else:
    paper = np.ones(3, np.float32)
  return paper + opacity[..., None] * (colour - paper), None


def _refuse_photographs(colour: np.ndarray, bright: np.ndarray) -> None:
  middle = (bright > MIDDLE[0]) & (bright < MIDDLE[1])
  share = float((middle | (np.ptp(colour, axis=-1) > COLOURED)).mean())
  if share > MOST_OTHER:
    raise ValueError(
      f'{share:.0%} of the pixels are coloured or grey, of a sketch at most'
      f' {MOST_OTHER:.0%}: this is a photograph; draw lines on plain paper'
    )


def _squared(ink: np.ndarray) -> np.ndarray:
  """Pads both sides of the shorter direction."""
  height, width = ink.shape
  side = max(height, width)
  widths = [((side - n) // 2, (side - n + 1) // 2) for n in (height, width)]
  return np.pad(ink, widths)


def _resized(ink: np.ndarray, size: int) -> np.ndarray:
  """Returns (size, size) bool from a square of lines.

  A thin line crosses a row of pixels in one of them, or in two that share its
  ink; the fuller has at least half of it.
  """
  image = Image.fromarray(ink.astype(np.float32))
  share = np.asarray(image.resize((size, size), Image.Resampling.BOX))
  padded = np.pad(share, 1)
  fullest = np.max(
    [padded[i : i + size, j : j + size] for i in range(3) for j in range(3)],
    axis=0,
  )
  return (share > 1e-6) & (share >= KEPT * fullest)
