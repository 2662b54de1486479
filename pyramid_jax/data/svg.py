"""Drawings in SVG as pixels: outlines and fills of shapes, no more.

What a drawing program writes for strokes is read: groups, transforms, styles
in attributes, all shapes. What is not (text, references, style sheets) is
refused by name, so that nothing of a drawing is lost in silence; dashes are
drawn through and what is half transparent is drawn whole.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import math
import re
from xml.parsers import expat

import numpy as np
from PIL import Image
from PIL import ImageColor
from PIL import ImageDraw

from pyramid_jax.data import svg_shapes


MAX_BYTES = 1 << 22
MAX_SHAPES = 10_000
SIDE = 1024  # px of the longer side of a drawing
_NAMESPACE = 'http://www.w3.org/2000/svg'
_GROUPS = ('svg', 'g', 'a')
# Hold what is used by reference, which is refused, or nothing to be seen.
_SKIPPED = ('defs', 'title', 'desc', 'metadata')
_INHERITED = ('fill', 'fill-rule', 'stroke', 'stroke-width', 'visibility')
_OPACITIES = ('opacity', 'fill-opacity', 'stroke-opacity')
_INVISIBLE = 0.05  # opacity
_TRANSFORM = re.compile(r'\s*,?\s*(\w+)\s*\(([^)]*)\)')


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Element:
  """An element as it opens, or, without a tag, as it closes."""

  tag: str = ''
  attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def rasterise(data: bytes, side: int = SIDE) -> np.ndarray:
  """Draws an SVG file.

  Args:
    data: the file.
    side: px of the longer side of the picture.

  Returns:
    (H, W, 4) uint8, red, green, blue and opacity, which is 0 or 255.

  Raises:
    ValueError: one line: not SVG, too large, damaged, or with something that
      is not read.
  """
  if len(data) > MAX_BYTES:
    raise ValueError(f'{len(data)} bytes of SVG, at most {MAX_BYTES} are read')
  elements = _parse(data)
  first = next(iter(elements), _Element())
  if first.tag != 'svg':
    raise ValueError('not an SVG drawing')
  count = sum(element.tag in svg_shapes.SHAPES for element in elements)
  if count > MAX_SHAPES:
    raise ValueError(f'{count} shapes of SVG, at most {MAX_SHAPES} are read')
  matrix, size = _frame(first.attributes, side)
  picture = Image.new('RGBA', size, (0, 0, 0, 0))
  styles = [{'fill': 'black', 'stroke': 'none', 'stroke-width': '1'}]
  matrices = [matrix]
  for element in elements:
    if not element.tag:
      styles.pop()
      matrices.pop()
      continue
    style = _style(element.attributes, styles[-1])
    placed = matrices[-1]
    if element.tag != 'svg':
      placed = placed @ _transform(element.attributes.get('transform', ''))
    styles.append(style)
    matrices.append(placed)
    if element.tag in svg_shapes.SHAPES and _is_seen(style):
      lines = svg_shapes.polylines(element.tag, element.attributes)
      _draw(picture, lines, style, placed)
  return np.asarray(picture)


def _parse(data: bytes) -> list[_Element]:
  """Returns the elements in order, what is skipped left out."""
  out: list[_Element] = []
  skipping: list[str] = []

  def begin(name: str, attributes: dict[str, str]) -> None:
    namespace, _, tag = name.rpartition(' ')
    foreign = namespace not in ('', _NAMESPACE)
    if skipping or foreign or tag in _SKIPPED:
      skipping.append(tag)
      return
    nested = tag == 'svg' and bool(out)
    if (tag not in _GROUPS and tag not in svg_shapes.SHAPES) or nested:
      raise ValueError(
        f'the element <{tag}> is not read; read are '
        f'{", ".join((*_GROUPS[1:], *svg_shapes.SHAPES))}'
      )
    out.append(_Element(tag=tag, attributes=dict(attributes)))

  def end(name: str) -> None:
    del name
    if skipping:
      skipping.pop()
    else:
      out.append(_Element())

  def refuse(*declaration: object) -> None:
    raise ValueError(f'declares the entity {declaration[0]!r}')

  parser = expat.ParserCreate(namespace_separator=' ')
  parser.StartElementHandler = begin
  parser.EndElementHandler = end
  parser.EntityDeclHandler = refuse
  try:
    parser.Parse(data, True)
  except expat.ExpatError as error:
    raise ValueError(f'not XML: {error}') from error
  return out


def _frame(
  attributes: Mapping[str, str], side: int
) -> tuple[np.ndarray, tuple[int, int]]:
  """Returns the (3, 3) matrix to pixels, and the (width, height) in pixels."""
  box = [
    float(v) for v in re.findall(r'[^\s,]+', attributes.get('viewBox', ''))
  ]
  if not box and {'width', 'height'} <= attributes.keys():
    size = [svg_shapes.number(attributes[n]) for n in ('width', 'height')]
    box = [0.0, 0.0, *size]
  if len(box) != 4 or min(box[2:]) <= 0:
    raise ValueError('the drawing has no viewBox, and no width and height')
  x, y, width, height = box
  scale = side / max(width, height)
  matrix = np.array(
    [[scale, 0, -scale * x], [0, scale, -scale * y], [0, 0, 1]], np.float64
  )
  return matrix, (
    max(1, round(scale * width)),
    max(1, round(scale * height)),
  )


def _style(
  attributes: Mapping[str, str], parent: Mapping[str, str]
) -> dict[str, str]:
  """Returns the style of an element: its own, and what it inherits."""
  own = dict(attributes)
  for rule in attributes.get('style', '').split(';'):
    name, _, value = rule.partition(':')
    own[name.strip()] = value.strip()
  style = dict(parent)
  for name in _INHERITED:
    if own.get(name, 'inherit') != 'inherit':
      style[name] = own[name]
  for name in _OPACITIES:  # of a group they multiply, of shapes are inherited
    opacity = float(own.get(name, 1)) * float(parent.get(name, 1))
    style[name] = str(opacity)
  if own.get('display') == 'none':
    style['hidden'] = 'yes'
  return style


def _is_seen(style: Mapping[str, str]) -> bool:
  seen = style.get('visibility', 'visible') == 'visible'
  return seen and 'hidden' not in style and float(style['opacity']) > _INVISIBLE


def _paint(style: Mapping[str, str], name: str) -> tuple[int, ...] | None:
  """Returns the colour of a fill or stroke, None for none."""
  text = style[name]
  if float(style[f'{name}-opacity']) <= _INVISIBLE:
    return None
  if text in ('none', 'transparent'):
    return None
  try:
    colour = ImageColor.getrgb('black' if text == 'currentColor' else text)
    return (*colour[:3], 255)
  except ValueError as error:
    raise ValueError(f'the {name} {text[:40]!r} is not read') from error


def _transform(text: str) -> np.ndarray:
  """Returns the (3, 3) matrix of a list of transforms."""
  matrix, at = np.eye(3), 0
  text = text.strip()
  while at < len(text):
    found = _TRANSFORM.match(text, at)
    if not found:
      raise ValueError(f'the transform {text[at : at + 40]!r} is not read')
    matrix = matrix @ _one_transform(found.group(1), _numbers(found.group(2)))
    at = found.end()
  return matrix


def _numbers(text: str) -> list[float]:
  return [svg_shapes.bounded(v) for v in re.findall(r'[^\s,]+', text)]


def _one_transform(name: str, numbers: list[float]) -> np.ndarray:
  one = np.eye(3)
  count = len(numbers)
  if name == 'matrix' and count == 6:
    one[:2] = np.reshape(numbers, (3, 2)).T
  elif name == 'translate' and count in (1, 2):
    one[0, 2], one[1, 2] = numbers[0], numbers[1] if count == 2 else 0.0
  elif name == 'scale' and count in (1, 2):
    one[0, 0], one[1, 1] = numbers[0], numbers[-1]
  elif name == 'rotate' and count in (1, 3):
    c, s = (f(math.radians(numbers[0])) for f in (math.cos, math.sin))
    one[:2, :2] = [[c, -s], [s, c]]
    centre = np.array(numbers[1:] or [0.0, 0.0])
    one[:2, 2] = centre - one[:2, :2] @ centre
  elif name in ('skewX', 'skewY') and count == 1:
    place = (0, 1) if name == 'skewX' else (1, 0)
    one[place] = math.tan(math.radians(numbers[0]))
  else:
    raise ValueError(f'the transform {name}{tuple(numbers)} is not read')
  return one


def _draw(
  picture: Image.Image,
  lines: list[svg_shapes.Polyline],
  style: Mapping[str, str],
  matrix: np.ndarray,
) -> None:
  """Draws a shape, its fill first."""
  # Pixels of the canvas are counted by their middles.
  placed = [
    (points @ matrix[:2, :2].T + matrix[:2, 2] - 0.5, closed)
    for points, closed in lines
  ]
  # Far outside is outside; no coordinate is too large for the canvas.
  far = 16.0 * max(picture.size)
  placed = [(np.clip(points, -far, far), closed) for points, closed in placed]
  fill, stroke = _paint(style, 'fill'), _paint(style, 'stroke')
  if fill is not None:
    _fill(picture, [p for p, _ in placed], fill, style.get('fill-rule', ''))
  if stroke is not None:
    scale = math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    width = svg_shapes.number(style['stroke-width']) * scale
    if width > 0:
      pixels = min(max(1, round(width)), max(picture.size))
      for points, closed in placed:
        _stroke(picture, points, closed, stroke, pixels)


def _stroke(
  picture: Image.Image,
  points: np.ndarray,
  closed: bool,
  colour: tuple[int, ...],
  width: int,
) -> None:
  if closed:
    points = np.concatenate([points, points[:1]])
  canvas = ImageDraw.Draw(picture)
  flat = [(float(x), float(y)) for x, y in points]
  canvas.line(flat, fill=colour, width=width)
  r = (width - 1) / 2
  for x, y in flat if width > 2 else ():  # round joints and ends
    canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _fill(
  picture: Image.Image,
  outlines: list[np.ndarray],
  colour: tuple[int, ...],
  rule: str,
) -> None:
  """Fills where outlines wind around, or, by evenodd, an odd number of them.

  An outline that crosses itself is filled as if it wound once.
  """
  width, height = picture.size
  turns = np.zeros((height, width), np.int16)
  for place, mask, sign in _masks(outlines, picture.size):
    turns[place] += mask * np.int16(sign)
  inside = turns % 2 == 1 if rule == 'evenodd' else turns != 0
  picture.paste(colour, mask=Image.fromarray(inside))


def _masks(
  outlines: list[np.ndarray], size: tuple[int, int]
) -> Iterator[tuple[tuple[slice, slice], np.ndarray, int]]:
  """Yields where each outline is, what is inside of it, and its direction."""
  for points in outlines:
    low = np.maximum(np.floor(points.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(points.max(0)).astype(int) + 1, size)
    if len(points) < 3 or (low >= high).any():
      continue
    mask = Image.new('1', (int(high[0] - low[0]), int(high[1] - low[1])))
    corners = [(float(x), float(y)) for x, y in points - low]
    ImageDraw.Draw(mask).polygon(corners, fill=1)
    x, y = points.T
    area = np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))
    place = (slice(low[1], high[1]), slice(low[0], high[0]))
    yield place, np.asarray(mask), 1 if area >= 0 else -1
