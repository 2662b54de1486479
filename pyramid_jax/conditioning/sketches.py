"""Drawings that a person gives: from pixels to white lines on black."""

import numpy as np
from PIL import Image

from pyramid_jax.conditioning import edges


INK = 0.5  # darkness, between paper and the darkest line, of what is a line
# What is neither paper nor line: brightness between these, or a colour with a
# larger difference of its channels. A drawing has little of it.
MIDDLE = (0.25, 0.75)
COLOURED = 0.35
MOST_OTHER = 0.4  # share of the pixels
KEPT = 0.4  # of the ink of a neighbour, for a line to stay
CONTRAST = 0.1  # of brightness, at least


def from_image(pixels: np.ndarray, size: int) -> dict[str, np.ndarray]:
  """Returns the row of a drawing of any size, dark on light or the reverse.

  What is seen less of is the line, what is seen more of the paper. The drawing
  is laid into the middle of a square of its paper. A line stays one, however
  thin it becomes: a pixel is a line if it holds a good part of the ink of the
  fullest pixel beside it.

  Args:
    pixels: (H, W, 4) uint8, red, green, blue and opacity.
    size: px of a side.

  Returns:
    `sketch` (1, size, size) uint8, 255 = line, 0 = none.

  Raises:
    ValueError: nothing is drawn, or it is a photograph.
  """
  ink = _squared(_ink(pixels))
  if not ink.any():
    raise ValueError('the drawing is empty')
  lines = _resized(ink, size)
  return {'sketch': np.where(lines, np.uint8(255), np.uint8(0))[None]}


def _ink(pixels: np.ndarray) -> np.ndarray:
  """Returns (H, W) bool, where lines are."""
  colour, opacity = _laid_on_paper(pixels)
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


def _laid_on_paper(
  pixels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns colours in [0, 1], and where they do not matter the opacity.

  Lines of one tone on nothing are lines whatever their colour, those of more
  tones lie on white, and a drawing that covers most of its sheet has a paper of
  its own, which goes on where there is none.
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
      f'{share:.0%} of the pixels are coloured or grey, of a drawing at most'
      f' {MOST_OTHER:.0%}: this is a photograph; draw lines on plain paper'
    )


def _squared(ink: np.ndarray) -> np.ndarray:
  """Adds empty paper on both sides of the shorter direction."""
  height, width = ink.shape
  side = max(height, width)
  widths = [((side - n) // 2, (side - n + 1) // 2) for n in (height, width)]
  return np.pad(ink, widths)


def _resized(ink: np.ndarray, size: int) -> np.ndarray:
  """Returns (size, size) bool from a square of lines.

  A thin line crosses a row of pixels in one of them, or in two that share its
  ink; the fuller holds half of it at least.
  """
  image = Image.fromarray(ink.astype(np.float32))
  share = np.asarray(image.resize((size, size), Image.Resampling.BOX))
  padded = np.pad(share, 1)
  fullest = np.max(
    [padded[i : i + size, j : j + size] for i in range(3) for j in range(3)],
    axis=0,
  )
  return (share > 1e-6) & (share >= KEPT * fullest)
