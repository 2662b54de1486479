"""What a person drew on the canvas of the page: boxes and strokes.

A value is {'boxes': [{'label': name, 'box': [x0, y0, x1, y1]}], 'sketch':
[stroke], 'mask': [stroke]}, each of which may be missing. A stroke is {'width':
w, 'points': [x, y, x, y, ...]}. Coordinates are shares of the width and the
height, and w is a share of the width. Anybody may send anything: what is not a
value is a UserError of one line.
"""

from collections.abc import Sequence
import dataclasses
import math
import numbers
from typing import Any

import numpy as np
from PIL import Image
from PIL import ImageDraw

from pyramid_jax import errors


BOXES, SKETCH, MASK = LAYERS = ('boxes', 'sketch', 'mask')
MAX_BOXES = 100
MAX_STROKES = 500
MAX_POINTS = 20_000  # of all strokes of a layer
WIDTHS = (0.001, 0.5)  # of a stroke, as shares of the width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stroke:
  """A line that a person drew."""

  width: float  # share of the width of the canvas
  points: tuple[tuple[float, float], ...]  # (x, y), shares of both sides


def boxes(value: Any) -> list[dict[str, Any]]:
  """Returns the boxes of a canvas as objects of a layout, unchecked.

  Raises:
    UserError: no list of objects, or a long one.
  """
  found = _layer(value, BOXES, MAX_BOXES)
  return [{'label': x.get('label'), 'box': x.get('box')} for x in found]


def strokes(value: Any, layer: str) -> list[Stroke]:
  """Returns the strokes of a layer, `SKETCH` or `MASK`.

  Raises:
    UserError: no strokes, or too many.
  """
  found = [_stroke(item, layer) for item in _layer(value, layer, MAX_STROKES)]
  count = sum(len(stroke.points) for stroke in found)
  if count > MAX_POINTS:
    raise errors.UserError(
      f'{layer}: {count} points, at most {MAX_POINTS} are drawn.'
    )
  return found


def raster(found: Sequence[Stroke], height: int, width: int) -> np.ndarray:
  """Returns (height, width) uint8, 255 where strokes are, 0 elsewhere."""
  image = Image.new('L', (width, height), 0)
  pen = ImageDraw.Draw(image)
  for stroke in found:
    thick = max(1, round(stroke.width * width))
    places = [(x * (width - 1), y * (height - 1)) for x, y in stroke.points]
    pen.line(places, fill=255, width=thick, joint='curve')
    radius = thick / 2
    for x, y in (places[0], places[-1]):  # round ends, and single points
      disc = (x - radius, y - radius, x + radius, y + radius)
      pen.ellipse(disc, fill=255)
  return np.asarray(image)


def _layer(value: Any, layer: str, most: int) -> list[dict[str, Any]]:
  """Returns the objects of a layer of a canvas, none if nothing was drawn."""
  if value is None:
    return []
  if not isinstance(value, dict):
    raise errors.UserError(
      f'the canvas is {_short(value)}, must be an object with'
      f' {", ".join(LAYERS)}.'
    )
  found = value.get(layer)
  if found is None:
    return []
  if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
    raise errors.UserError(
      f'{layer}: {_short(found)}, must be a list of objects.'
    )
  if len(found) > most:
    raise errors.UserError(f'{layer}: {len(found)} are drawn, at most {most}.')
  return found


def _stroke(item: dict[str, Any], layer: str) -> Stroke:
  width: Any = item.get('width')
  points: Any = item.get('points')
  low, high = WIDTHS
  if not is_number(width) or not low <= width <= high:
    raise errors.UserError(
      f'{layer}: a stroke has the width {_short(width)}, must lie in'
      f' [{low:g}, {high:g}].'
    )
  is_list = isinstance(points, list) and len(points) >= 2
  if not is_list or len(points) % 2 or not all(map(_is_place, points)):
    raise errors.UserError(
      f'{layer}: the points {_short(points)} must be x, y, x, y, ... in [0, 1].'
    )
  pairs = zip(points[::2], points[1::2], strict=True)
  return Stroke(
    width=float(width), points=tuple((float(x), float(y)) for x, y in pairs)
  )


def is_number(value: Any) -> bool:
  """Whether a value is a finite number."""
  is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
  try:
    return is_real and math.isfinite(value)
  except OverflowError:  # a whole number beyond floats
    return False


def _is_place(value: Any) -> bool:
  return is_number(value) and 0 <= value <= 1


def _short(value: Any) -> str:
  text = errors.shown(value)
  return text if len(text) <= 80 else f'{text[:80]}...'
