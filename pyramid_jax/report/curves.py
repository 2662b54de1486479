"""Curves as SVG, drawn from pairs of a step and a value."""

from collections.abc import Callable
from collections.abc import Sequence
import math

import numpy as np

from pyramid_jax.report import elements
from pyramid_jax.report.elements import Html


Points = Sequence[tuple[int, float | None]]

_WIDTH, _HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 20  # px around the curve
_COLUMNS = 240  # of which each has at most one mark, so that a curve is small
_SHARE = 40  # A running mean is over this part of the values,
_FEWEST = 40  # where there are so many.
_LOG_RATIO = 30  # of the largest to the least value of a logarithmic axis


def window(count: int) -> int:
  """Returns how many values a running mean is over: an odd number, 1 for none.

  It is the fortieth part of `count`.
  """
  return 1 if count < _FEWEST else 2 * (count // _SHARE // 2) + 1


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
  """Returns means over `width` values around each; of fewer at both ends."""
  half = width // 2
  sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
  places = np.arange(len(values))
  low = np.maximum(places - half, 0)
  high = np.minimum(places + half + 1, len(values))
  return (sums[high] - sums[low]) / (high - low)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
  """Returns round numbers from `low` to `high`, at most `most`."""
  if not high > low:
    return [low]
  rough = (high - low) / most
  unit = 10.0 ** math.floor(math.log10(rough))
  step = next(x * unit for x in (1, 2, 5, 10, 20) if x * unit >= rough)
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [number * step for number in range(first, last + 1)]


def chart(name: str, points: Points, marks: Sequence[int] = ()) -> Html:
  """Returns a figure: the values, their running mean, axes and a caption.

  Args:
    name: of what is drawn.
    points: (step, value), the steps rising; what is not finite is None.
    marks: steps at which a vertical line says that the run was resumed.

  Returns:
    A figure of a few kilobytes, whatever the number of points.
  """
  known = [(step, x) for step, x in points if x is not None]
  finite = [(step, x) for step, x in known if math.isfinite(x)]
  missing = len(points) - len(finite)
  note = f', {missing} not finite' if missing else ''
  if not finite:
    caption = elements.tag('figcaption', elements.tag('b', name), note)
    return elements.tag('figure', caption)
  steps = np.array([step for step, _ in finite], np.float64)
  values = np.array([x for _, x in finite], np.float64)
  width = window(len(values))
  means = running_mean(values, width)
  is_log = values.min() > 0 and values.max() > _LOG_RATIO * values.min()
  x, y = _Axis.of(steps, False, True), _Axis.of(values, is_log, False)
  shown = [mark for mark in marks if x.low < mark < x.high]
  drawing = elements.tag(
    'svg',
    elements.tag('title', f'{name} by step'),
    *_grid(x, y),
    *(_line(x(mark), x(mark), 'resumed') for mark in shown),
    _faint(x(steps), y(values)) if width > 1 else '',
    _strong(x(steps), y(means)),
    viewBox=f'0 0 {_WIDTH} {_HEIGHT}',
    role='img',
  )
  scale = ', logarithmic' if is_log else ''
  mean = f', mean of {width}' if width > 1 else ''
  last = f' last {values[-1]:.4g}, least {values.min():.4g}'
  last += f', most {values.max():.4g}{mean}{scale}{note}'
  caption = elements.tag('figcaption', elements.tag('b', name), last)
  return elements.tag('figure', caption, drawing)


class _Axis:
  """Maps values to px."""

  def __init__(self, low: float, high: float, is_log: bool, is_x: bool):
    self.low, self.high, self.is_log, self.is_x = low, high, is_log, is_x

  @classmethod
  def of(cls, values: np.ndarray, is_log: bool, is_x: bool) -> '_Axis':
    low, high = float(values.min()), float(values.max())
    if low == high:
      low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    elif not is_x and not is_log:
      room = (high - low) / 20
      low, high = low - room, high + room
    return cls(low, high, is_log, is_x)

  def __call__(self, value):
    scale: Callable = np.log if self.is_log else np.asarray
    low, high = float(scale(self.low)), float(scale(self.high))
    part = (scale(value) - low) / (high - low)
    if self.is_x:
      return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)
    return _TOP + (1 - part) * (_HEIGHT - _TOP - _BOTTOM)

  def ticks(self) -> list[float]:
    if not self.is_log:
      return ticks(self.low, self.high, 6)
    first = math.ceil(math.log10(self.low) - 1e-9)
    last = math.floor(math.log10(self.high) + 1e-9)
    return [10.0**n for n in range(first, last + 1, 1 + (last - first) // 6)]


def _grid(x: _Axis, y: _Axis) -> list[Html]:
  parts = []
  for value in y.ticks():
    place = f'{float(y(value)):.1f}'
    parts.append(
      elements.tag(
        'line',
        **{'x1': _LEFT, 'x2': _WIDTH - _RIGHT, 'y1': place, 'y2': place},
        class_='grid',
      )
    )
    words = {'x': _LEFT - 4, 'y': place, 'class_': 'y'}
    parts.append(elements.tag('text', f'{value:.4g}', **words))
  for value in x.ticks():
    words = {'x': f'{float(x(value)):.1f}', 'y': _HEIGHT - 5, 'class_': 'x'}
    parts.append(elements.tag('text', _steps(value), **words))
  return parts


def _steps(value: float) -> str:
  """Returns '500', '1.2k' or '3M'."""
  for unit, letter in ((1e6, 'M'), (1e3, 'k')):
    if abs(value) >= unit:
      return f'{value / unit:.4g}{letter}'
  return f'{value:.4g}'


def _line(x0: float, x1: float, kind: str) -> Html:
  ends = {'x1': f'{x0:.1f}', 'x2': f'{x1:.1f}'}
  return elements.tag(
    'line', **ends, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_=kind
  )


def _columns(xs: np.ndarray) -> list[np.ndarray]:
  """Returns the places of the points of each column that has some."""
  found = np.floor((xs - xs[0]) / max(np.ptp(xs), 1e-9) * _COLUMNS)
  cuts = np.flatnonzero(np.diff(found)) + 1
  return np.split(np.arange(len(xs)), cuts)


def _faint(xs: np.ndarray, ys: np.ndarray) -> Html:
  """Returns the least and the largest values, as one area."""
  columns = _columns(xs)
  upper = [(xs[i].mean(), ys[i].min()) for i in columns]
  lower = [(xs[i].mean(), ys[i].max()) for i in columns]
  return elements.tag('polygon', points=_pairs(upper + lower[::-1]))


def _strong(xs: np.ndarray, ys: np.ndarray) -> Html:
  points = [(xs[i].mean(), ys[i].mean()) for i in _columns(xs)]
  if len(points) == 1:
    (x, y), *_ = points
    return elements.tag('circle', cx=f'{x:.1f}', cy=f'{y:.1f}', r=2.5)
  return elements.tag('polyline', points=_pairs(points))


def _pairs(points: Sequence[tuple[float, float]]) -> str:
  return ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)


def interval(
  value: float, ends: Sequence[float | None], limits: Sequence[float | None]
) -> Html:
  """Returns a small drawing of a value in its interval.

  Args:
    value: of a score.
    ends: low and high of its interval, None where they are not known.
    limits: floor and ceiling of the score, drawn as vertical lines.
  """
  known = [x for x in (value, *ends, *limits) if x is not None]
  known = [x for x in known if math.isfinite(x)]
  if len(set(known)) < 2 or not math.isfinite(value):
    return Html('')
  low, high = min(known), max(known)
  place = lambda x: f'{4 + 112 * (x - low) / (high - low):.1f}'
  parts = [
    elements.tag(
      'line', x1=place(x), x2=place(x), y1=2, y2=14, class_='resumed'
    )
    for x in limits
    if x is not None
  ]
  if None not in ends:
    edges = {'x1': place(ends[0]), 'x2': place(ends[1]), 'y1': 8, 'y2': 8}
    parts.append(elements.tag('line', **edges, class_='interval'))
  parts.append(elements.tag('circle', cx=place(value), cy=8, r=3))
  return elements.tag(
    'svg', *parts, viewBox='0 0 120 16', class_='score', role='img'
  )
