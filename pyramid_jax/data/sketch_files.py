"""Files of sketches: images with their opacity, or SVG.

Of SVG, outlines and fills of shapes are read, as drawing programs write them:
groups, transforms, styles in attributes, all shapes. Other elements (text,
references, style sheets) are refused by name, so that nothing of a sketch is
lost in silence; dashes are drawn through, ends are round, and what is half
transparent is drawn whole.

The file is checked and written anew, with nothing but known elements and
numbers in it; resvg renders that in a process of its own, whose time and memory
are bounded.
"""

from collections.abc import Mapping
import io
import os
import pathlib
import re
import subprocess
import sys
from xml.parsers import expat

import numpy as np
from PIL import Image
from PIL import ImageColor
from scipy import ndimage

from pyramid_jax.data import images


MAX_BYTES = 1 << 22
MAX_SHAPES = 10_000
MAX_DEPTH = 200  # The largest depth of nested groups.
LARGEST = 1e9  # number in a file
SIDE = 1024  # px of the longer side of a sketch
MAX_SECS = 10
MAX_MEMORY = 1 << 31  # bytes
INVISIBLE = 0.05  # opacity up to which nothing is drawn

_BYTE_ORDER_MARK = b'\xef\xbb\xbf'
_NAMESPACE = 'http://www.w3.org/2000/svg'
_GROUPS = ('svg', 'g', 'a')
# Hold what is used by reference, which is refused, or nothing to be seen.
_SKIPPED = ('defs', 'title', 'desc', 'metadata')
_LENGTHS = {
  **dict.fromkeys(('path', 'polyline', 'polygon'), ()),
  'line': ('x1', 'y1', 'x2', 'y2'),
  'rect': ('x', 'y', 'width', 'height', 'rx', 'ry'),
  'circle': ('cx', 'cy', 'r'),
  'ellipse': ('cx', 'cy', 'rx', 'ry'),
}
_KEYWORDS = {
  'fill-rule': ('nonzero', 'evenodd'),
  'visibility': ('visible', 'hidden', 'collapse'),
  'display': ('none',),
}
_TRANSFORM = re.compile(r'\s*,?\s*(\w+)\s*\(([^)]*)\)')
# Names of transforms with how many numbers they take.
_TRANSFORMS = (
  *('matrix6', 'translate1', 'translate2', 'scale1', 'scale2'),
  *('rotate1', 'rotate3', 'skewX1', 'skewY1'),
)
_NUMBER = re.compile(r'[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?')
# A command of path data with the numbers that follow it; the flags of an arc
# are one character each.
_VALUE, _FLAG = rf'(?>{_NUMBER.pattern}[\s,]*)', r'(?>[01][\s,]*)'
_COMMAND = re.compile(
  r'\s*(?:[Zz][\s,]*|'
  + '|'.join(
    rf'[{kinds}][\s,]*(?:{values})+'
    for kinds, values in (
      ('MmLlTt', _VALUE * 2),
      ('HhVv', _VALUE),
      ('Cc', _VALUE * 6),
      ('SsQq', _VALUE * 4),
      ('Aa', _VALUE * 3 + _FLAG * 2 + _VALUE * 2),
    )
  )
  + ')'
)
# Runs in the other process: SVG in, PNG out.
_RENDER = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MAX_MEMORY}, {MAX_MEMORY}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import resvg_py
sys.stdout.buffer.write(resvg_py.svg_to_bytes(
  svg_string=sys.stdin.read(), skip_system_fonts=True))
"""


def read(path: str | os.PathLike) -> np.ndarray:
  """Reads a JPEG, PNG, WebP or SVG file; the content decides, not the name.

  The result is (H, W, 4) uint8: red, green, blue and opacity.

  Raises:
    BrokenImage: no such file, another format, too large, or damaged.
  """
  path = pathlib.Path(path)
  data = images.load_bytes(path)
  if not data.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b'<'):
    return images.decode_rgba(data, path)
  try:
    return rasterize(data)
  except ValueError as error:
    raise images.BrokenImage(path, str(error)) from error


def rasterize(data: bytes, side: int = SIDE) -> np.ndarray:
  """Renders an SVG file; the longer side of the result has `side` px.

  The result is (H, W, 4) uint8: red, green, blue and opacity, 0 or 255.

  Raises:
    ValueError: one line: not SVG, too large, damaged, or with an element or a
      value that is not read.
  """
  if len(data) > MAX_BYTES:
    raise ValueError(f'{len(data)} bytes of SVG, at most {MAX_BYTES} are read')
  png = _rendered(_rewritten(data, side))
  pixels = np.array(Image.open(io.BytesIO(png)).convert('RGBA'))
  # What covers half of a pixel is drawn, and lines that nowhere do.
  cover = pixels[..., 3]
  thin = (cover > 0) & (ndimage.maximum_filter(cover, 3) < 128)
  pixels[..., 3] = np.where((cover >= 128) | thin, 255, 0)
  return pixels


def _rendered(document: str) -> bytes:
  """Returns the PNG of a document, rendered in a process of its own."""
  try:
    done = subprocess.run(
      [sys.executable, '-I', '-c', _RENDER],
      input=document.encode(),
      capture_output=True,
      timeout=MAX_SECS,
      check=True,
    )
  except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
    raise ValueError(
      f'cannot be rendered in {MAX_SECS} s and {MAX_MEMORY >> 20} MiB'
    ) from None
  return done.stdout


def _rewritten(data: bytes, side: int) -> str:
  """Returns a document with the same shapes, and nothing else in it."""
  out: list[str] = []
  opacities = [1.0]  # The opacities of the open elements.
  skipping = shapes = 0

  def write(tag: str, attributes: Mapping[str, str], close: str) -> None:
    values = [f' {name}="{value}"' for name, value in attributes.items()]
    out.append(f'<{tag}{"".join(values)}{close}')

  def begin(name: str, attributes: dict[str, str]) -> None:
    nonlocal skipping, shapes
    namespace, _, tag = name.rpartition(' ')
    if skipping or namespace not in ('', _NAMESPACE) or tag in _SKIPPED:
      skipping += 1
      return
    nested = tag == 'svg' and bool(out)
    if (tag not in _GROUPS and tag not in _LENGTHS) or nested:
      raise ValueError(
        f'the element <{tag}> is not read; read are '
        f'{", ".join((*_GROUPS[1:], *_LENGTHS))}'
      )
    if not out and tag != 'svg':
      raise ValueError('not an SVG sketch')
    if len(opacities) > MAX_DEPTH:
      raise ValueError(f'elements are nested more than {MAX_DEPTH} deep')
    if tag == 'svg':
      out.append(_frame(attributes, side))
    kept, opacity = _appearance(attributes)
    opacities.append(opacity * opacities[-1])
    if opacities[-1] <= INVISIBLE:
      kept['display'] = 'none'
    write('g', kept, '>')
    if tag in _LENGTHS:
      shapes += 1
      write(tag, _geometry(tag, attributes), '/>')

  def end(name: str) -> None:
    nonlocal skipping
    del name
    if skipping:
      skipping -= 1
    else:
      opacities.pop()
      out.append('</g>')

  def refuse(*declaration: object) -> None:
    raise ValueError(f'declares the entity {declaration[0]!r}')

  parser = expat.ParserCreate(namespace_separator=' ')
  parser.StartElementHandler = begin
  parser.EndElementHandler = end
  parser.EntityDeclHandler = refuse
  try:
    parser.Parse(data, True)
  except (expat.ExpatError, LookupError) as error:
    raise ValueError(f'not XML: {error}') from error
  if shapes > MAX_SHAPES:
    raise ValueError(f'{shapes} shapes of SVG, at most {MAX_SHAPES} are read')
  return ''.join((*out, '</g></svg>'))


def _frame(attributes: Mapping[str, str], side: int) -> str:
  """Returns the root element, and a group that scales to its pixels."""
  box = _numbers(attributes.get('viewBox', ''))
  if not box and {'width', 'height'} <= attributes.keys():
    box = [0.0, 0.0, *(_length(attributes[n]) for n in ('width', 'height'))]
  if len(box) != 4 or min(box[2:]) < 1 / LARGEST:
    raise ValueError('the sketch has no viewBox, and no width and height')
  x, y, width, height = box
  scale = side / max(width, height)
  columns, rows = (max(1, round(scale * length)) for length in (width, height))
  return (
    f'<svg xmlns="{_NAMESPACE}" width="{columns}" height="{rows}">'
    f'<g transform="scale({scale}) translate({-x} {-y})"'
    ' stroke-linecap="round" stroke-linejoin="round">'
  )


def _bounded(text: str) -> float:
  value = float(text)
  if not abs(value) <= LARGEST:
    raise ValueError(f'the number {text[:40]} is not at most {LARGEST:g}')
  return value


def _numbers(text: str) -> list[float]:
  return [_bounded(v) for v in re.findall(r'[^\s,]+', text)]


def _length(text: str) -> float:
  """Returns the number that a length begins with; its unit is left out."""
  found = _NUMBER.match(text.strip())
  if not found or text.strip().endswith('%'):
    raise ValueError(f'{text[:40]!r} is not a length')
  return _bounded(found.group())


def _appearance(attributes: Mapping[str, str]) -> tuple[dict[str, str], float]:
  """Returns an element's own transform and style, and its own opacity."""
  own = dict(attributes)
  for rule in attributes.get('style', '').split(';'):
    name, _, value = rule.partition(':')
    own[name.strip()] = value.strip()
  kept = {k: own[k] for k, known in _KEYWORDS.items() if own.get(k) in known}
  if 'transform' in attributes:
    kept['transform'] = _transform(attributes['transform'])
  for name in ('fill', 'stroke'):
    if own.get(name, 'inherit') != 'inherit':
      kept[name] = _paint(name, own[name])
  if own.get('stroke-width', 'inherit') != 'inherit':
    kept['stroke-width'] = str(_length(own['stroke-width']))
  for name in ('fill-opacity', 'stroke-opacity'):
    if own.get(name, 'inherit') != 'inherit':
      kept[name] = str(int(_bounded(own[name]) > INVISIBLE))
  return kept, _bounded(own.get('opacity', '1'))


def _paint(name: str, text: str) -> str:
  if text in ('none', 'transparent'):
    return 'none'
  try:
    colour = ImageColor.getrgb('black' if text == 'currentColor' else text)
  except ValueError as error:
    raise ValueError(f'the {name} {text[:40]!r} is not read') from error
  return '#' + ''.join(f'{min(value, 255):02x}' for value in colour[:3])


def _transform(text: str) -> str:
  """Returns a list of transforms, all of which are known."""
  text, at, out = text.strip(), 0, []
  while at < len(text):
    found = _TRANSFORM.match(text, at)
    if not found:
      raise ValueError(f'the transform {text[at : at + 40]!r} is not read')
    name, values = found.group(1), _numbers(found.group(2))
    if f'{name}{len(values)}' not in _TRANSFORMS:
      raise ValueError(f'the transform {name}{tuple(values)} is not read')
    out.append(f'{name}({" ".join(map(str, values))})')
    at = found.end()
  return ' '.join(out)


def _geometry(tag: str, attributes: Mapping[str, str]) -> dict[str, str]:
  """Returns the attributes that say where a shape is."""
  given = [name for name in _LENGTHS[tag] if name in attributes]
  kept = {name: str(_length(attributes[name])) for name in given}
  if tag == 'path':
    kept['d'] = _path(attributes.get('d', ''))
  elif tag in ('polyline', 'polygon'):
    points = _NUMBER.findall(attributes.get('points', ''))
    kept['points'] = ' '.join(str(_bounded(v)) for v in points)
  return kept


def _path(data: str) -> str:
  """Returns path data, all of which can be read."""
  at, data = 0, data.strip()
  if data and data[0] not in 'Mm':
    raise ValueError(f'path data must begin with M, got {data[0]!r}')
  while at < len(data):
    found = _COMMAND.match(data, at)
    if not found:
      rest = data[at : at + 20]
      raise ValueError(f'path data cannot be read from {rest!r} on')
    at = found.end()
  for text in _NUMBER.findall(data):
    _bounded(text)
  return data
