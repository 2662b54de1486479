"""How much darker than its paper each pixel of a sketch is.

Paper is not equally bright: a hand throws a shadow, a lamp shines from one
side, a desk lies around it. It is what remains where narrow dark things are
filled (a morphological closing), and contrast is measured against it, in the
channel that shows most, so that coloured lines count.
"""

import dataclasses

import numpy as np
from PIL import Image
from scipy import ndimage

from pyramid_jax.conditioning import edges


SMALL = 256  # px of the longer side that show whether a sheet is dark
MOST_OUTSIDE = 0.7  # share of what lies around a sheet
CLEARLY = 1.5  # times as many thin lines
WIDEST = 0.09  # radius of the closing over the shorter side
DARK = 0.8  # largest brightness of dark paper, relative to the brightest
DARKEST = 0.2  # paper relative to the brightest; what is darker is ink
# A dark region at the border is a desk, no shadow, if it has all four sides, is
# this dark, is coloured (range of its channels) or is streaked (share of ink).
DESK = 0.25
TINTED = 0.12
STREAKED = 0.2
LEAST = 0.06  # contrast of a line
NOISES = 5.0  # that it has at least
PALEST = 0.15  # relative to the strongest line
HALF = 0.5  # relative to the strongest pixel near by
RULES = 4  # of a ruled sheet, at least
LENGTH = 0.6  # of a rule, relative to the sheet
RULED = 0.6  # contrast of rules, relative to other lines
NEAR = 0.012  # how far near is, relative to the longer side


def is_dark(colour: np.ndarray) -> bool:
  """Whether light lines lie on a dark sheet.

  Args:
    colour: (H, W, 3) float32 in [0, 1].
  """
  step = -(-max(colour.shape[:2]) // SMALL)
  if step > 1:
    small = Image.fromarray(np.rint(255 * colour).astype(np.uint8)).reduce(step)
    colour = np.asarray(small).astype(np.float32) / 255
  dark, light = (_thin(find(x)) for x in (colour, 1 - colour))
  if max(dark, light) > CLEARLY * min(dark, light) + 0.002:
    return light > dark
  bright = colour @ np.array(edges.LUMA, np.float32)
  low, high = np.quantile(bright, [0.002, 0.998])
  return bool((bright < (low + high) / 2).mean() > 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines:
  """What is on a sheet; all are (H, W)."""

  found: np.ndarray  # bool, True on lines
  tone: np.ndarray  # float32, the brightness, with paper equally bright
  outside: np.ndarray  # bool, True where there is no sheet


def find(colour: np.ndarray, palest: float = PALEST) -> Lines:
  """Returns the dark lines of a bright sheet.

  Args:
    colour: (H, W, 3) float32 in [0, 1].
    palest: the least contrast of a line, relative to that of the strongest.
  """
  is_grey = bool((colour == colour[..., :1]).all())
  colour = colour[..., :1] if is_grey else colour
  size = _width(colour.shape[:2])
  channels = [_closed(channel, size) for channel in np.moveaxis(colour, -1, 0)]
  paper = np.stack(channels, -1)
  brightest = np.maximum(np.quantile(paper, 0.95, axis=(0, 1)), 1e-3)
  relative = paper / brightest
  dark, count = ndimage.label(relative.min(-1) < DARK)
  rim = np.zeros(dark.shape, bool)
  rim[[0, -1]] = rim[:, [0, -1]] = True
  outside = np.unique(dark[rim & (dark > 0)])
  # A dark region that the sheet surrounds is drawn.
  is_drawn = np.ones(count + 1, bool)
  is_drawn[[0, *outside]] = False
  relative[is_drawn[dark]] = 1.0
  relative = np.maximum(relative, DARKEST)
  paper = brightest * relative
  darker = paper - colour
  # Noise lies below the paper, which the closing leaves at its top.
  darker -= np.maximum(np.median(darker, axis=(0, 1)), 0)
  noise = 1.48 * np.median(np.abs(darker), axis=(0, 1))
  contrast = (darker / paper).max(-1)
  clear = NOISES * (noise / paper).max(-1)
  clear = np.maximum(clear, max(LEAST, palest * float(contrast.max())))
  found = _strokes(contrast, clear)
  found &= ~(_rules(found, contrast) | _rules(found.T, contrast.T).T)
  desk = np.zeros(found.shape, bool)
  for label in outside:
    region = dark == label
    if _is_desk(region, relative, found):
      desk |= region
  if desk.any():
    grown = 1 + round(NEAR * max(desk.shape))
    desk = ndimage.binary_dilation(desk, iterations=grown)
  tone = (colour / relative).mean(-1)
  return Lines(found=found & ~desk, tone=tone, outside=desk)


def _thin(lines: Lines) -> float:
  """Returns the share of lines that are not areas, 0 without a sheet."""
  if lines.outside.mean() > MOST_OUTSIDE:
    return 0.0
  size = _width(lines.found.shape)
  areas = ndimage.minimum_filter(lines.found, size)
  areas = ndimage.maximum_filter(areas, size)
  return float((lines.found & ~areas).mean())


def _width(shape: tuple[int, ...]) -> int:
  return 2 * max(1, round(WIDEST * min(shape))) + 1


def _closed(values: np.ndarray, size: int) -> np.ndarray:
  """Returns (H, W) values without dark things narrower than `size` px.

  The noise of single pixels is taken out first.
  """
  smooth = ndimage.median_filter(values, 3)
  return ndimage.minimum_filter(ndimage.maximum_filter(smooth, size), size)


def _strokes(contrast: np.ndarray, least: np.ndarray) -> np.ndarray:
  """Returns where contrast stands out from its neighbours; all are (H, W)."""
  near = 2 * max(1, round(NEAR * max(contrast.shape))) + 1
  strongest = ndimage.maximum_filter(contrast, near)
  found = (contrast >= least) & (contrast >= HALF * strongest)
  parts, count = ndimage.label(found, np.ones((3, 3)))
  sizes = np.bincount(parts.ravel(), minlength=count + 1)
  return found & (sizes >= (near // 2) ** 2)[parts]


def _rules(found: np.ndarray, contrast: np.ndarray) -> np.ndarray:
  """Returns (H, W) bool, True on the printed lines of ruled paper.

  These are at least `RULES` rows of lines that are nearly as long as the sheet
  is wide, and paler than what else is on it.
  """
  height, width = found.shape
  printed = np.zeros(found.shape, bool)
  rows = found.mean(1) > LENGTH
  bands, count = ndimage.label(rows)
  if count < RULES or rows.mean() > 0.5:
    return printed
  others = contrast[found & ~rows[:, None]]
  pale = float(np.median(contrast[found & rows[:, None]]))
  if not others.size or pale > RULED * float(np.quantile(others, 0.9)):
    return printed
  printed[ndimage.binary_dilation(rows)] = True
  # What crosses a rule is darker than it, and than two of them.
  crossed = 1 - (1 - min(1.2 * pale, 1.0)) ** 2
  return printed & (contrast < max(pale / RULED, crossed))


def _is_desk(
  region: np.ndarray, relative: np.ndarray, found: np.ndarray
) -> bool:
  """Whether a dark region (H, W) at the border is no part of the sheet."""
  sides = (region[0], region[-1], region[:, 0], region[:, -1])
  levels = np.median(relative[region], axis=0)
  return bool(
    all(side.any() for side in sides)
    or levels.max() < DESK
    or np.ptp(levels) > TINTED
    or found[region].mean() > STREAKED
  )
