"""Shapes of SVG as polylines: paths, lines, rectangles, ellipses, polygons.

SVG 1.1, chapters 8 (paths) and 9 (basic shapes).
"""

from collections.abc import Callable
from collections.abc import Mapping
import math
import re

import numpy as np


# (points (N, 2) float64, whether the last joins the first)
Polyline = tuple[np.ndarray, bool]
SEGMENTS = 24  # of a curve, and of a quarter of an ellipse

LARGEST = 1e9  # number in a drawing

_NUMBER = re.compile(r'[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?')
_GAP = re.compile(r'[\s,]*')
# How many numbers follow each command.
_COUNTS = {
  'M': 2,
  'L': 2,
  'H': 1,
  'V': 1,
  'C': 6,
  'S': 4,
  'Q': 4,
  'T': 2,
  'A': 7,
  'Z': 0,
}
_FLAGS = (3, 4)  # numbers of an arc that are one character, 0 or 1


def number(text: str) -> float:
  """Returns the number that a length begins with; its unit is left out.

  Raises:
    ValueError: no number, or a percentage.
  """
  found = _NUMBER.match(text.strip())
  if not found or text.strip().endswith('%'):
    raise ValueError(f'{text[:40]!r} is not a length')
  return bounded(found.group())


def bounded(text: str) -> float:
  """Returns a number.

  Raises:
    ValueError: it is none, or larger than any drawing.
  """
  value = float(text)
  if not abs(value) <= LARGEST:
    raise ValueError(f'the number {text[:40]} is not at most {LARGEST:g}')
  return value


def polylines(tag: str, attributes: Mapping[str, str]) -> list[Polyline]:
  """Returns the outlines of an element.

  Args:
    tag: a key of `SHAPES`.
    attributes: of the element.

  Raises:
    ValueError: coordinates that cannot be read.
  """
  return [line for line in SHAPES[tag](attributes) if len(line[0])]


def _values(attributes: Mapping[str, str], *names: str) -> list[float]:
  return [number(attributes.get(name, '0')) for name in names]


def _line(attributes: Mapping[str, str]) -> list[Polyline]:
  ends = np.array(_values(attributes, 'x1', 'y1', 'x2', 'y2')).reshape(2, 2)
  return [(ends, False)]


def _points(attributes: Mapping[str, str]) -> np.ndarray:
  values = [bounded(v) for v in _NUMBER.findall(attributes.get('points', ''))]
  return np.array(values[: len(values) // 2 * 2]).reshape(-1, 2)


def _polyline(attributes: Mapping[str, str]) -> list[Polyline]:
  return [(_points(attributes), False)]


def _polygon(attributes: Mapping[str, str]) -> list[Polyline]:
  return [(_points(attributes), True)]


def _rect(attributes: Mapping[str, str]) -> list[Polyline]:
  x, y, width, height = _values(attributes, 'x', 'y', 'width', 'height')
  if width <= 0 or height <= 0:
    return []
  rounded = attributes.get('rx', attributes.get('ry', '0'))
  rx = min(number(rounded), width / 2)
  ry = min(number(attributes.get('ry', rounded)), height / 2)
  if rx <= 0 or ry <= 0:
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return [(np.array(corners), True)]
  t = np.linspace(0, math.pi / 2, SEGMENTS + 1)
  parts = []
  for turn, (cx, cy) in enumerate(
    (
      (x + width - rx, y + height - ry),
      (x + rx, y + height - ry),
      (x + rx, y + ry),
      (x + width - rx, y + ry),
    )
  ):
    angle = t + turn * math.pi / 2
    corner = np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], 1)
    parts.append(corner)
  return [(np.concatenate(parts), True)]


def _ellipse(attributes: Mapping[str, str]) -> list[Polyline]:
  cx, cy, rx, ry = _values(attributes, 'cx', 'cy', 'rx', 'ry')
  if rx <= 0 or ry <= 0:
    return []
  t = np.arange(4 * SEGMENTS) * (math.pi / 2 / SEGMENTS)
  return [(np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1), True)]


def _circle(attributes: Mapping[str, str]) -> list[Polyline]:
  r = attributes.get('r', '0')
  return _ellipse({**attributes, 'rx': r, 'ry': r})


def _path(attributes: Mapping[str, str]) -> list[Polyline]:
  return path(attributes.get('d', ''))


SHAPES: dict[str, Callable[[Mapping[str, str]], list[Polyline]]] = {
  'path': _path,
  'line': _line,
  'polyline': _polyline,
  'polygon': _polygon,
  'rect': _rect,
  'circle': _circle,
  'ellipse': _ellipse,
}


class _Reader:
  """Reads the commands and numbers of path data from left to right."""

  def __init__(self, text: str):
    self._text = text
    self._at = 0
    self._skip()

  def _skip(self) -> None:
    found = _GAP.match(self._text, self._at)
    self._at = found.end() if found else self._at

  @property
  def done(self) -> bool:
    return self._at >= len(self._text)

  def letter(self) -> str:
    """Takes the next command, '' if a number comes next."""
    letter = self._text[self._at]
    if letter.upper() not in _COUNTS:
      return ''
    self._at += 1
    self._skip()
    return letter

  def number(self, is_flag: bool) -> float:
    if is_flag:
      text = self._text[self._at : self._at + 1]
      end = self._at + 1 if text and text in '01' else self._at
    else:
      found = _NUMBER.match(self._text, self._at)
      text, end = (found.group(), found.end()) if found else ('', self._at)
    if end == self._at:
      rest = self._text[self._at : self._at + 20]
      raise ValueError(f'path data cannot be read from {rest!r} on')
    self._at = end
    self._skip()
    return bounded(text)


def path(data: str) -> list[Polyline]:
  """Returns the outlines of path data, curves as `SEGMENTS` pieces.

  Raises:
    ValueError: data that cannot be read.
  """
  reader = _Reader(data)
  pen = _Pen()
  command = ''
  while not reader.done:
    letter = reader.letter()
    if letter:
      command = letter
    elif command in ('', 'Z', 'z'):
      raise ValueError('path data must go on with a command')
    else:  # further pairs after a move are lines
      command = {'M': 'L', 'm': 'l'}.get(command, command)
    kind = command.upper()
    if not pen.started and kind != 'M':
      raise ValueError(f'path data must begin with M, got {command!r}')
    is_arc = kind == 'A'
    values = [
      reader.number(is_arc and i in _FLAGS) for i in range(_COUNTS[kind])
    ]
    pen.draw(kind, values, relative=command.islower())
  return pen.finished()


class _Pen:
  """Follows the commands of a path; coordinates are complex numbers."""

  def __init__(self) -> None:
    self.started = False
    self._lines: list[Polyline] = []
    self._points: list[complex] = []
    self._at = self._start = 0j
    self._last = ('', 0j)  # the last command and its last control point

  def draw(self, kind: str, values: list[float], relative: bool) -> None:
    base = self._at if relative else 0j
    if kind == 'Z':
      self._end(closed=True)
      self._at = self._start
      self._points = [self._at]
      self._last = ('Z', self._at)
      return
    if kind == 'H':
      end = complex(values[0] + base.real, self._at.imag)
    elif kind == 'V':
      end = complex(self._at.real, values[0] + base.imag)
    else:
      end = base + complex(*values[-2:])
    control = end
    if kind == 'M':
      self._end(closed=False)
      self._points, self._start, self.started = [end], end, True
    elif kind in 'LHV':
      self._points.append(end)
    elif kind == 'A':
      self._points += _arc(self._at, end, *values[:5])
    else:
      controls = [base + complex(*values[i : i + 2]) for i in range(0, 4, 2)]
      control = self._curve(kind, controls, end)
    self._at, self._last = end, (kind, control)

  def _curve(self, kind: str, controls: list[complex], end: complex) -> complex:
    """Draws C, S, Q or T; returns the last control point."""
    last, previous = self._last
    smooth = last in {'S': 'CS', 'T': 'QT'}.get(kind, '') and last != ''
    mirrored = 2 * self._at - previous if smooth else self._at
    if kind == 'S':
      controls = [mirrored, controls[0]]
    elif kind == 'Q':
      controls = controls[:1]
    elif kind == 'T':
      controls = [mirrored]
    self._points += _bezier([self._at, *controls, end])
    return controls[-1]

  def _end(self, closed: bool) -> None:
    if len(self._points) > 1 or closed:
      points = np.array(self._points)
      self._lines.append((np.stack([points.real, points.imag], 1), closed))

  def finished(self) -> list[Polyline]:
    self._end(closed=False)
    self._points = []
    return self._lines


def _bezier(points: list[complex]) -> list[complex]:
  """Returns the places on a curve of two or three degrees, its start left out.

  By de Casteljau: means of means.
  """
  t = np.arange(1, SEGMENTS + 1) / SEGMENTS
  levels = [np.full(SEGMENTS, p) for p in points]
  while len(levels) > 1:
    levels = [
      a + t * (b - a) for a, b in zip(levels[:-1], levels[1:], strict=True)
    ]
  return list(levels[0])


def _arc(
  start: complex,
  end: complex,
  rx: float,
  ry: float,
  degrees: float,
  large: float,
  sweep: float,
) -> list[complex]:
  """Returns the places on an elliptic arc, its start left out.

  SVG 1.1, appendix F.6: the ellipse becomes a unit circle, on which the centre
  lies beside the middle of the chord.
  """
  rx, ry = abs(rx), abs(ry)
  if not rx or not ry or start == end:
    return [end]
  turn = np.exp(1j * math.radians(degrees))
  to_circle = lambda z: complex((z / turn).real / rx, (z / turn).imag / ry)
  half = (to_circle(start) - to_circle(end)) / 2
  scale = max(1.0, abs(half))  # ellipses too small to reach are enlarged
  half /= scale
  side = math.sqrt(max(0.0, 1 / max(abs(half), 1e-12) ** 2 - 1))
  offset = half * -1j * side * (1 if large != sweep else -1)
  first, last = half - offset, -half - offset
  angle = float(np.angle(last / first))
  if sweep and angle < 0:
    angle += 2 * math.pi
  elif not sweep and angle > 0:
    angle -= 2 * math.pi
  count = max(1, math.ceil(SEGMENTS * abs(angle) / (math.pi / 2)))
  on_circle = first * np.exp(1j * angle * np.arange(1, count) / count)
  from_circle = lambda z: turn * (rx * z.real + 1j * ry * z.imag) * scale
  centre = (start + end) / 2 + from_circle(offset)
  return [*(centre + from_circle(on_circle)), end]
