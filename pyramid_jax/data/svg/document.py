"""Documents of SVG, checked and written anew for a renderer.

What changes what is seen is in the new document or is refused by name: text,
scripts, animations, other files, and whatever is not known. The new document
has known elements, their checked attributes, and the properties of their style
sheets as attributes; nothing in it names a file, an address or an entity.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import re
from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax import saxutils

from pyramid_jax import limits
from pyramid_jax.data.svg import style as svg_style
from pyramid_jax.data.svg import values


THINNEST = 1.0  # px of the result, of a stroke
SVG = 'http://www.w3.org/2000/svg'
_XHTML = 'http://www.w3.org/1999/xhtml'
_XLINK = '{http://www.w3.org/1999/xlink}href'
Checks = Mapping[str, Callable[[str], str]]

_BOX = dict.fromkeys(('x', 'y', 'width', 'height'), values.length)
_VIEW: Checks = {
  'viewBox': lambda text: ' '.join(map(str, values.numbers(text))),
  'preserveAspectRatio': values.plain,
}
SHAPES: Mapping[str, Checks] = {
  'path': {'d': values.path},
  **dict.fromkeys(('polyline', 'polygon'), {'points': values.points}),
  'line': dict.fromkeys(('x1', 'y1', 'x2', 'y2'), values.length),
  'rect': {**_BOX, **dict.fromkeys(('rx', 'ry'), values.length)},
  'circle': dict.fromkeys(('cx', 'cy', 'r'), values.length),
  'ellipse': dict.fromkeys(('cx', 'cy', 'rx', 'ry'), values.length),
}
_GROUPS: Mapping[str, Checks] = {
  **dict.fromkeys(('g', 'a', 'switch', 'defs'), {}),
  'svg': {**_BOX, **_VIEW},
  'use': _BOX,
  'image': {**_BOX, 'preserveAspectRatio': values.plain},
}
# Elements that are seen where others refer to them; their attributes are words
# and numbers.
_DEFINED = (
  *('symbol', 'clipPath', 'mask', 'pattern', 'marker', 'filter', 'stop'),
  *('linearGradient', 'radialGradient', 'feBlend', 'feColorMatrix'),
  *('feComponentTransfer', 'feComposite', 'feConvolveMatrix', 'feTile'),
  *('feDiffuseLighting', 'feDisplacementMap', 'feDropShadow', 'feFlood'),
  *('feFuncA', 'feFuncB', 'feFuncG', 'feFuncR', 'feGaussianBlur', 'feMerge'),
  *('feMergeNode', 'feMorphology', 'feOffset', 'feSpecularLighting'),
  *('feTurbulence', 'feDistantLight', 'fePointLight', 'feSpotLight'),
)
# Elements without anything to be seen.
_IDLE = (
  *('title', 'desc', 'metadata', 'style', 'view', 'cursor', 'color-profile'),
  *('font', 'font-face', 'glyph', 'missing-glyph', 'hkern', 'vkern'),
)
_LENGTHS_OF_CSS = ('x', 'y', 'width', 'height', 'cx', 'cy', 'r', 'rx', 'ry')
_IDLE_ATTRIBUTES = re.compile(
  r'data-.*|aria-.*|on.*|class|style|version|role|lang|tabindex|focusable'
  r'|requiredFeatures|externalResourcesRequired'
)
_LONG = ('d', 'points', 'href', _XLINK[1:])
_PICTURE = re.compile(
  r'data:image/(?:png|jpe?g|gif|webp)\s*;\s*base64\s*,[A-Za-z0-9+/=\s]*'
)


@dataclasses.dataclass(frozen=True)
class _Place:
  """What an element inherits.

  Attributes:
    scale: px of the result for a unit.
    pixel: px of the result for one of the size that the file asks for.
    width: of strokes, in units; None if it is a share.
    is_hidden: whether an element above has `display` none.
  """

  scale: float
  pixel: float
  width: float | None = 1.0
  is_hidden: bool = False


def rewritten(data: bytes, side: int) -> str:
  """Returns a document with the same shapes, and nothing else in it.

  Args:
    data: the bytes of a file.
    side: the longer side of the result, px.

  Raises:
    ValueError: one line: not SVG, too large, damaged, or with an element or a
      value that is not read.
  """
  root = _parsed(data)
  if svg_style.local(root) != 'svg':
    raise ValueError('not an SVG sketch')
  sheets = [_sheet(x) for x in root.iter() if svg_style.local(x) == 'style']
  characters = sum(map(len, sheets))
  if characters > limits.SVG_STYLE_CHARACTERS:
    raise ValueError(
      f'{characters} characters of style sheets, at most'
      f' {limits.SVG_STYLE_CHARACTERS} are read'
    )
  writer = _Writer(root, svg_style.of_elements(root, sheets))
  return writer.document(side)


def _parsed(data: bytes) -> ElementTree.Element:
  """Returns the root of a document without entities."""
  builder = ElementTree.TreeBuilder()
  depth = count = 0
  names = lambda name: f'{{{name}' if '}' in name else name

  def start(name: str, attributes: dict[str, str]) -> None:
    nonlocal depth, count
    depth += 1
    if depth > limits.SVG_DEPTH:
      raise ValueError(f'elements are nested more than {limits.SVG_DEPTH} deep')
    count += 1
    if count > limits.SVG_ELEMENTS:
      raise ValueError(f'more than {limits.SVG_ELEMENTS} elements of SVG')
    for key, value in attributes.items():
      if key not in _LONG and len(value) > limits.SVG_ATTRIBUTE_CHARACTERS:
        raise ValueError(
          f'{len(value)} characters in the attribute {key[:40]!r}, at most'
          f' {limits.SVG_ATTRIBUTE_CHARACTERS} are read'
        )
    builder.start(names(name), {names(k): v for k, v in attributes.items()})

  def end(name: str) -> None:
    nonlocal depth
    depth -= 1
    builder.end(names(name))

  def refuse(*declaration: object) -> None:
    raise ValueError(f'declares the entity {declaration[0]!r}')

  def instruct(target: str, text: str) -> None:
    if target == 'xml-stylesheet':
      raise ValueError(f'the style sheet {text[:40]!r} is not read')

  parser = expat.ParserCreate(namespace_separator='}')
  parser.StartElementHandler = start
  parser.EndElementHandler = end
  parser.CharacterDataHandler = builder.data
  parser.EntityDeclHandler = refuse
  parser.ProcessingInstructionHandler = instruct
  try:
    parser.Parse(data, True)
  except (expat.ExpatError, LookupError) as error:
    raise ValueError(f'not XML: {error}') from error
  return builder.close()


def _sheet(element: ElementTree.Element) -> str:
  kind, media = element.get('type', ''), element.get('media', '')
  if kind not in ('', 'text/css') or media not in ('', 'all', 'screen'):
    raise ValueError(f'the element <style> of {kind or media!r} is not read')
  return ''.join(element.itertext())


class _Writer:
  """Writes the elements of a document."""

  def __init__(
    self,
    root: ElementTree.Element,
    styles: Mapping[ElementTree.Element, svg_style.Style],
  ):
    self._root = root
    self._styles = styles
    self._ids = {x.get('id') for x in root.iter()} - {None}
    self._shapes = 0

  def document(self, side: int) -> str:
    """Returns the document whose longer side has `side` px."""
    frame, view, place = _frame(self._root, side)
    paper = self._styles[self._root].get('background-color', '')
    paper = self._styles[self._root].get('background', '') or paper
    parts = [_tag('svg', {'xmlns': SVG, **frame}, '>')]
    if paper not in ('', 'none', 'transparent'):
      all_of_it = {'width': '100%', 'height': '100%'}
      parts.append(
        _tag('rect', all_of_it | {'fill': values.colour(paper)}, '/>')
      )
    parts.append(_tag('svg', frame | view, '>'))
    kept, place = self._style(self._root, place)
    parts += [_tag('g', kept, '>'), *self._inside(self._root, place)]
    if self._shapes > limits.SVG_SHAPES:
      raise ValueError(
        f'{self._shapes} shapes of SVG, at most {limits.SVG_SHAPES} are read'
      )
    return ''.join((*parts, '</g></svg></svg>'))

  def _inside(
    self, element: ElementTree.Element, place: _Place
  ) -> Iterator[str]:
    for child in element:
      yield from self._element(child, place)

  def _element(
    self, element: ElementTree.Element, place: _Place
  ) -> Iterator[str]:
    """Yields an element with what is in it."""
    name = svg_style.local(element)
    space = element.tag.rpartition('}')[0].removeprefix('{')
    if space not in ('', SVG, _XHTML) or (space != _XHTML and name in _IDLE):
      return
    if element.get('requiredExtensions'):
      return  # For another program.
    checks = SHAPES.get(name, _GROUPS.get(name))
    if space == _XHTML or (checks is None and name not in _DEFINED):
      if self._style(element, place)[1].is_hidden and space != _XHTML:
        return
      raise ValueError(
        f'the element <{name}> is not read; read are '
        f'{", ".join((*SHAPES, *_GROUPS))} and what they refer to'
      )
    kept, inner = self._style(element, place)
    own = self._attributes(element, name, checks) | kept
    self._shapes += name in SHAPES
    yield _tag(name, own, '>')
    yield from self._inside(element, inner)
    yield f'</{name}>'

  def _attributes(
    self, element: ElementTree.Element, name: str, checks: Checks | None
  ) -> dict[str, str]:
    """Returns the attributes of an element that are no properties."""
    kept = {}
    given = dict(element.attrib)
    link = given.pop(_XLINK, None)
    link = given.pop('href', link)
    style = self._styles[element]
    for key in _LENGTHS_OF_CSS:
      if key in (checks or ()) and style.get(key, 'auto') != 'auto':
        given[key] = style[key]
    for key, value in given.items():
      if key in ('id', 'systemLanguage'):
        kept[key] = value
      elif checks is not None and key in checks:
        kept[key] = checks[key](value)
      elif checks is None and not _is_idle(key):
        is_matrix = key in ('gradientTransform', 'patternTransform')
        kept[key] = (values.transform if is_matrix else values.plain)(value)
    if link is not None and name != 'a':
      kept['href'] = self._link(name, link)
    return kept

  def _link(self, name: str, link: str) -> str:
    if name == 'image' and _PICTURE.fullmatch(link):
      return link
    if name == 'image' or not link.startswith('#'):
      raise ValueError(f'the <{name}> of {link[:40]!r} is not read')
    self._refer(link[1:])
    return link

  def _refer(self, target: str) -> None:
    if target not in self._ids:
      raise ValueError(f'refers to #{target[:40]}, which is not there')

  def _style(
    self, element: ElementTree.Element, place: _Place
  ) -> tuple[dict[str, str], _Place]:
    """Returns an element's properties, and what is inherited from it."""
    given = {k: v for k, v in element.attrib.items() if _is_style(k)}
    given |= self._styles[element]
    origin = given.pop('transform-origin', '0 0')
    for marker in ('marker-start', 'marker-mid', 'marker-end'):
      if 'marker' in given:
        given.setdefault(marker, given['marker'])
    given.pop('marker', None)
    for key in _LENGTHS_OF_CSS:
      given.pop(key, None)  # An attribute of what has a size.
    kept = {}
    for key, value in given.items():
      checked = values.declared(key, value)
      if checked:
        kept[key] = checked
        for target in values.references(checked):
          self._refer(target)
    if 'transform' in kept:
      kept['transform'] = _around(kept['transform'], origin)
    return _strokes(svg_style.local(element), kept, place)


def _tag(name: str, attributes: Mapping[str, str], close: str) -> str:
  given = [f' {k}={saxutils.quoteattr(v)}' for k, v in attributes.items()]
  return f'<{name}{"".join(given)}{close}'


def _frame(
  root: ElementTree.Element, side: int
) -> tuple[dict[str, str], dict[str, str], _Place]:
  """Returns the size and the view of the root, and the place that they give."""
  box = values.numbers(root.get('viewBox', ''))
  sizes: list[float | None] = [
    None
    if text is None or text.strip().endswith(('%', 'auto'))
    else values.pixels(text, values.OF_FONTS)
    for text in (root.get('width'), root.get('height'))
  ]
  if not box and None not in sizes:
    box = [0.0, 0.0, *(size or 0.0 for size in sizes)]
  if len(box) != 4 or min(box[2:]) < 1 / limits.SVG_NUMBER:
    raise ValueError('the sketch has no viewBox, and no width and height')
  width, height = (sizes[0] or 0, sizes[1] or 0)
  if min(width, height) < 1 / limits.SVG_NUMBER:
    one = next((s / b for s, b in zip(sizes, box[2:], strict=True) if s), 1.0)
    width, height = one * box[2], one * box[3]
  pixel = side / max(width, height)
  columns, rows = (max(1, round(pixel * x)) for x in (width, height))
  ratio = values.plain(root.get('preserveAspectRatio', 'xMidYMid meet'))
  scales = (columns / box[2], rows / box[3])
  scale = max(scales) if 'slice' in ratio else min(scales)
  frame = {'width': str(columns), 'height': str(rows)}
  view = {'viewBox': ' '.join(map(str, box)), 'preserveAspectRatio': ratio}
  return frame, view, _Place(scale, pixel)


def _strokes(
  name: str, kept: dict[str, str], place: _Place
) -> tuple[dict[str, str], _Place]:
  """Returns properties with strokes that are seen, and what is inherited."""
  scale = place.scale * values.scale_of(kept.get('transform', ''))
  width, text = place.width, kept.get('stroke-width', '')
  if text:
    width = None if text.endswith('%') else float(text)
  inner = _Place(
    scale,
    place.pixel,
    width,
    place.is_hidden or kept.get('display') == 'none',
  )
  fixed = kept.pop('vector-effect', '') == 'non-scaling-stroke'
  if width is None or name not in SHAPES or not scale:
    return kept, inner
  seen = width * place.pixel / scale if fixed else width
  if seen:
    seen = max(seen, THINNEST / scale)
  return kept | {'stroke-width': str(seen)}, inner


def _is_style(name: str) -> bool:
  return name in values.PROPERTIES or name in ('transform-origin', 'marker')


def _is_idle(name: str) -> bool:
  """Whether an attribute of a definition is read elsewhere or has no effect."""
  if '}' in name or _is_style(name):
    return True
  return bool(_IDLE_ATTRIBUTES.fullmatch(name) or values.IDLE.fullmatch(name))


def _around(transform: str, origin: str) -> str:
  """Returns transforms about a point."""
  words = {'left': '0', 'top': '0'}
  parts = [words.get(part, part) for part in origin.split()]
  try:
    x, y = (values.pixels(part) for part in (*parts, '0')[:2])
  except ValueError:
    raise ValueError(
      f'the transform-origin {origin[:40]!r} is not read, only px'
    ) from None
  if not x and not y:
    return transform
  return f'translate({x} {y}) {transform} translate({-x} {-y})'
