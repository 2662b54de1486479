"""Values of SVG: each is checked, and written anew with what resvg reads.

Functions take a value as it is in a file and return one that means the same. A
value that is not read is a ValueError with it; '' stands for one without an
effect.
"""

from collections.abc import Callable
from collections.abc import Mapping
import math
import re
from types import MappingProxyType

from tinycss2 import color4

from pyramid_jax import limits


NUMBER = r'[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?'
# px of a unit.
UNITS = {
  **{'': 1.0, 'px': 1.0, 'pt': 4 / 3, 'pc': 16.0, 'in': 96.0},
  **{'cm': 96 / 2.54, 'mm': 96 / 25.4, 'q': 24 / 25.4},
}
# The same of units of fonts, whose size is 16 px unless a style changes it.
OF_FONTS = MappingProxyType({'em': 16.0, 'rem': 16.0, 'ex': 8.0})
_NO_UNITS: Mapping[str, float] = MappingProxyType({})
_LENGTH = re.compile(rf'({NUMBER})([a-zA-Z]*|%)')
_TRANSFORM = re.compile(r'\s*,?\s*(\w+)\s*\(([^)]*)\)')
# Names of transforms with how many numbers they take.
_TRANSFORMS = {
  **{'matrix': (6,), 'translate': (1, 2), 'scale': (1, 2), 'rotate': (1, 3)},
  **{'skewX': (1,), 'skewY': (1,)},
}
# Names of CSS alone, with what they are as others; their arguments follow.
_CSS_TRANSFORMS: Mapping[str, Callable[[list[float]], list[float]]] = {
  'translateX': lambda v: [1, 0, 0, 1, v[0], 0],
  'translateY': lambda v: [1, 0, 0, 1, 0, v[0]],
  'scaleX': lambda v: [v[0], 0, 0, 1, 0, 0],
  'scaleY': lambda v: [1, 0, 0, v[0], 0, 0],
}
_ANGLES = {'': 1.0, 'deg': 1.0, 'grad': 0.9, 'turn': 360.0}
_ANGLES['rad'] = 180 / math.pi
_URL = re.compile(r'url\(\s*["\']?\s*#([^"\')\s]+)\s*["\']?\s*\)')
# A command of path data with the numbers that follow it; the flags of an arc
# are one character each.
_VALUE, _FLAG = rf'(?>{NUMBER}[\s,]*)', r'(?>[01][\s,]*)'
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


def number(text: str) -> float:
  """Returns a number of at most `limits.SVG_NUMBER`."""
  value = float(text)
  if not abs(value) <= limits.SVG_NUMBER:
    raise ValueError(
      f'the number {text[:40]} is not at most {limits.SVG_NUMBER:g}'
    )
  return value


def numbers(text: str) -> list[float]:
  """Returns numbers that spaces or commas separate."""
  return [number(value) for value in re.findall(r'[^\s,]+', text)]


def split_length(text: str) -> tuple[float, str]:
  """Returns the number and the unit of a length; '%' is a unit."""
  found = _LENGTH.fullmatch(text.strip())
  unit = found[2].lower() if found else '?'
  if found is None or (unit not in UNITS and unit != '%'):
    raise ValueError(f'{text[:40]!r} is not a length')
  return number(found[1]), unit


def pixels(
  text: str, more: Mapping[str, float] = MappingProxyType({})
) -> float:
  """Returns a length in px; a share is a ValueError, and an unknown unit.

  `more` are px of units in addition to `UNITS`.
  """
  units = {**UNITS, **more}
  found = _LENGTH.fullmatch(text.strip())
  if found is None or found[2].lower() not in units:
    raise ValueError(f'{text[:40]!r} is not a length')
  return number(found[1]) * units[found[2].lower()]


def length(text: str) -> str:
  """Returns a length in px, or a share as it is."""
  value, unit = split_length(text)
  return f'{value}%' if unit == '%' else str(value * UNITS[unit])


def lengths(text: str) -> str:
  """Returns the lengths of dashes."""
  if text == 'none':
    return text
  return ' '.join(length(part) for part in re.findall(r'[^\s,]+', text))


def opacity(text: str) -> str:
  """Returns a number or a share as a number in [0, 1]."""
  value, unit = split_length(text)
  if unit not in ('', '%'):
    raise ValueError(f'{text[:40]!r} is not an opacity')
  return str(min(max(value / (100 if unit else 1), 0.0), 1.0))


def colour(text: str) -> str:
  """Returns #rrggbbaa, or currentColor."""
  found = color4.parse_color(text)
  if found == 'currentcolor':
    return 'currentColor'
  if found is None:
    raise ValueError(f'the colour {text[:40]!r} is not read')
  channels = (*found.to('srgb'),) if found.space != 'srgb' else (*found,)
  values = [round(255 * min(max(v or 0.0, 0.0), 1.0)) for v in channels]
  return '#' + ''.join(f'{value:02x}' for value in values)


def paint(text: str) -> str:
  """Returns a colour, none, or a reference with what serves in its place."""
  if text in ('none', 'context-fill', 'context-stroke'):
    return text
  found = _URL.match(text)
  if found is None:
    return colour(text)
  rest = text[found.end() :].strip()
  return f'url(#{found[1]})' + (f' {paint(rest)}' if rest else '')


def reference(text: str) -> str:
  """Returns url(#id), or none."""
  if text == 'none':
    return text
  found = _URL.fullmatch(text)
  if found is None:
    raise ValueError(f'{text[:40]!r} is not read, only url(#id)')
  return f'url(#{found[1]})'


def references(text: str) -> list[str]:
  """Returns the ids that a checked value refers to."""
  return _URL.findall(text)


def one_of(*allowed: str) -> Callable[[str], str]:
  """Returns a function that takes some words alone."""

  def check(text: str) -> str:
    if text not in allowed:
      raise ValueError(f'{text[:40]!r} is not one of {", ".join(allowed)}')
    return text

  return check


def plain(text: str) -> str:
  """Returns words and numbers as they are; references are a ValueError."""
  if '(' in text or ':' in text or any(ord(c) < 32 for c in text):
    raise ValueError(f'{text[:40]!r} is not read')
  for value in re.findall(NUMBER, text):
    number(value)
  return text


def transform(text: str) -> str:
  """Returns a list of transforms, as an attribute or as CSS writes it."""
  text, at, out = text.strip(), 0, []
  if text == 'none':
    return ''
  while at < len(text):
    found = _TRANSFORM.match(text, at)
    if not found:
      raise ValueError(f'the transform {text[at : at + 40]!r} is not read')
    name, values = found[1], _arguments(found[1], found[2])
    if name in _CSS_TRANSFORMS and len(values) == 1:
      name, values = 'matrix', _CSS_TRANSFORMS[name](values)
    if len(values) not in _TRANSFORMS.get(name, ()):
      raise ValueError(f'the transform {name}{tuple(values)} is not read')
    out.append(f'{name}({" ".join(map(str, values))})')
    at = found.end()
  return ' '.join(out)


def _arguments(name: str, text: str) -> list[float]:
  """Returns the arguments of a transform in px and degrees."""
  values = []
  for i, part in enumerate(re.findall(r'[^\s,]+', text)):
    found = _LENGTH.fullmatch(part)
    if found is None:
      values.append(number(part))  # such as nan, which is refused
      continue
    units = _ANGLES if name.startswith(('rotate', 'skew')) and not i else UNITS
    if found[2] not in units:
      raise ValueError(f'the transform {name}({text[:40]}) is not read')
    values.append(number(found[1]) * units[found[2]])
  return values


def scale_of(text: str) -> float:
  """Returns by which factor checked transforms scale, the mean of both axes."""
  factor = 1.0
  for name, arguments in _TRANSFORM.findall(text):
    v = numbers(arguments)
    if name == 'scale':
      factor *= abs(v[0] * v[-1]) ** 0.5
    elif name == 'matrix':
      factor *= abs(v[0] * v[3] - v[1] * v[2]) ** 0.5
  return factor


def points(text: str) -> str:
  """Returns the numbers of a polygon."""
  return ' '.join(str(number(v)) for v in re.findall(NUMBER, text))


def path(data: str) -> str:
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
  for text in re.findall(NUMBER, data):
    number(text)
  return data


# What each property of a style may be.
PROPERTIES: Mapping[str, Callable[[str], str]] = {
  **dict.fromkeys(('fill', 'stroke'), paint),
  **dict.fromkeys(
    ('color', 'stop-color', 'flood-color', 'lighting-color'), colour
  ),
  **dict.fromkeys(
    ('opacity', 'fill-opacity', 'stroke-opacity', 'stop-opacity'), opacity
  ),
  'flood-opacity': opacity,
  **dict.fromkeys(('stroke-width', 'stroke-dashoffset'), length),
  'stroke-dasharray': lengths,
  'stroke-miterlimit': lambda text: str(number(text)),
  'stroke-linecap': one_of('butt', 'round', 'square'),
  'stroke-linejoin': one_of('miter', 'miter-clip', 'round', 'bevel'),
  **dict.fromkeys(('fill-rule', 'clip-rule'), one_of('nonzero', 'evenodd')),
  'visibility': one_of('visible', 'hidden', 'collapse'),
  'display': lambda text: 'none' if text == 'none' else 'inline',
  **dict.fromkeys(
    ('clip-path', 'mask', 'filter', 'marker-start', 'marker-mid'), reference
  ),
  'marker-end': reference,
  'overflow': one_of('visible', 'hidden', 'scroll', 'auto'),
  'mask-type': one_of('luminance', 'alpha'),
  'isolation': one_of('auto', 'isolate'),
  'mix-blend-mode': plain,
  'paint-order': plain,
  **dict.fromkeys(
    ('color-interpolation', 'color-interpolation-filters'),
    one_of('auto', 'sRGB', 'linearRGB'),
  ),
  'transform': transform,
  'transform-box': one_of('view-box'),
  'clip': one_of('auto'),
  'vector-effect': one_of('none', 'non-scaling-stroke'),
  'animation': one_of('none'),
  'animation-name': one_of('none'),
}
INHERITED = (
  *('fill', 'stroke', 'color', 'fill-opacity', 'stroke-opacity', 'fill-rule'),
  *('clip-rule', 'stroke-width', 'stroke-dashoffset', 'stroke-dasharray'),
  *('stroke-miterlimit', 'stroke-linecap', 'stroke-linejoin', 'visibility'),
  *('marker-start', 'marker-mid', 'marker-end', 'paint-order'),
  *('color-interpolation', 'color-interpolation-filters'),
)
# Properties without an effect on an image without text.
IDLE = re.compile(
  r'-.*|font.*|text-.*|letter-.*|word-.*|writing-mode|direction|unicode-bidi'
  r'|line-.*|.*baseline.*|cursor|pointer-events|user-select|white-space'
  r'|shape-.*|inline-size|solid-.*|(color|image|text)-rendering|color-profile'
  r'|enable-background|transition.*|will-change|kerning|glyph-.*|touch-action'
  r'|margin.*|padding.*|position|top|left|right|bottom|z-index|float|border.*'
  r'|outline.*|box-.*|(min|max)-.*|background.*|overflow-.*|speak|animation-.*'
)


def declared(name: str, text: str) -> str:
  """Returns the value of a property, '' if it has no effect.

  Raises:
    ValueError: an unknown property or a value that is not read.
  """
  words = text.strip()
  if name not in PROPERTIES:
    if IDLE.fullmatch(name):
      return ''
    raise ValueError(f'the property {name[:40]!r} is not read')
  if words in ('inherit', 'unset', 'initial', 'revert'):
    inherits = name in INHERITED
    if words == 'unset' or (words == 'inherit') == inherits:
      return ''
    raise ValueError(f'the {name} {words!r} is not read')
  try:
    return PROPERTIES[name](words)
  except ValueError as error:
    if f'{name} ' in str(error) or str(error).startswith('the '):
      raise
    raise ValueError(f'the {name} {error}') from error
