"""Sketches of users: from pixels to white lines on black."""

from absl import logging
import numpy as np
from PIL import Image

from pyramid_jax.conditioning import edges
from pyramid_jax.conditioning import line_contrast


LARGEST = 1024  # px of the longer side in which lines are looked for
# Pixels of a photograph differ from the paper by a colour whose channels have
# this range, or are neither paper nor line; a sketch has few of them.
COLOURED = 0.35
MIDDLE = (0.25, 0.75)  # of the range of brightness
MOST_OTHER = 0.4
MOST_INK = 0.4  # share of lines
_PHOTOGRAPH = (
  '{share:.0%} of the pixels are coloured or grey, of a sketch at most'
  f' {MOST_OTHER:.0%}: this is a photograph; draw lines on plain paper'
)
KEPT = 0.4  # least ink of a line's pixel, relative to its neighbours


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
  colour = _on_paper(_reduced(pixels))
  if np.ptp(colour) < line_contrast.LEAST:
    return np.zeros(colour.shape[:2], bool)
  if line_contrast.is_dark(colour):
    colour = 1 - colour
  # Files with transparency are drawn and not photographed.
  is_exact = bool(pixels[..., 3].min() < 255)
  lines = line_contrast.find(colour, 0 if is_exact else line_contrast.PALEST)
  _refuse_photographs(colour, lines)
  share = float(lines.found.mean())
  if share > MOST_INK:
    raise ValueError(
      f'{share:.0%} of the sketch are lines, at most {MOST_INK:.0%} are drawn'
    )
  logging.info('%.1f %% of the sketch are lines', 100 * share)
  return lines.found


def _reduced(pixels: np.ndarray) -> np.ndarray:
  """Returns pixels whose longer side is at most `LARGEST`, by means."""
  factor = -(-max(pixels.shape[:2]) // LARGEST)
  if factor <= 1:
    return pixels
  return np.asarray(Image.fromarray(pixels).reduce(factor))


def _on_paper(pixels: np.ndarray) -> np.ndarray:
  """Returns colours (H, W, 3) float32 in [0, 1] without transparency.

  Where the visible pixels have one brightness, the opacity alone shows the
  lines, and is their darkness. Others lie on white, or, if most of the image is
  opaque, on its median colour.
  """
  colour = pixels[..., :3].astype(np.float32) / 255
  opacity = pixels[..., 3:].astype(np.float32) / 255
  if opacity.min() == 1:
    return colour
  seen = opacity[..., 0] >= 0.5 * opacity.max()
  tones = (colour @ np.array(edges.LUMA, np.float32))[seen]
  low, high = np.quantile(tones, [0.002, 0.998])
  paper = np.ones(3, np.float32)
  if seen.mean() > 0.5:
    paper = np.median(colour[seen], axis=0)
  elif high - low < 0.5:
    return np.repeat(1 - opacity, 3, axis=-1)
  return paper + opacity * (colour - paper)


def _refuse_photographs(colour: np.ndarray, lines: line_contrast.Lines) -> None:
  """Raises a ValueError if much is neither paper nor line."""
  outside = float(lines.outside.mean())
  if outside > line_contrast.MOST_OUTSIDE:
    raise ValueError(_PHOTOGRAPH.format(share=outside))
  paper = np.maximum(np.median(colour[~lines.outside], axis=0), 0.1)
  coloured = np.ptp(colour / paper, axis=-1) > COLOURED
  low, high = np.quantile(lines.tone[~lines.outside], [0, 0.99])
  tone = (lines.tone - low) / max(float(high - low), 1e-6)
  middle = (tone > MIDDLE[0]) & (tone < MIDDLE[1])
  share = float((middle | coloured)[~lines.outside].mean())
  if share > MOST_OTHER:
    raise ValueError(_PHOTOGRAPH.format(share=share))


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
