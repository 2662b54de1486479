"""Plots of the tables of docs/results.md, as SVG in place of bare numbers.

A table of scores with intervals becomes a row of points with their intervals,
between the floor and the ceiling where these are known. A table of scores by
step or by number of images becomes curves. The table itself is below its plot.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import html
import re


TABLE = re.compile(r'(?:^\|.*\|\n)+', re.MULTILINE)
_INTERVAL = re.compile(r'^(-?[\d.]+) \.\. (-?[\d.]+)$')
_NUMBER = re.compile(r'^\**(-?[\d,]*\.?\d+)\**$')
# Scores that are no shares, although they may lie below 1.
_DISTANCES = re.compile(r'shape_fd|tv_|fid|kid|lpips|error|latent')
_PROGRESS = ('images', 'step', 'steps')  # first columns of curves, best first
_COLOURS = ('#3f51b5', '#e65100', '#00796b', '#ad1457', '#6a7b00', '#5d4037')
_LEFT, _WIDTH, _ROW = 170, 420, 24  # px: of names, of the axis, of a score
_HEIGHT = 220  # px of curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """A score with its interval; all are shares, from 0 to 1."""

  name: str
  series: str
  value: float
  interval: tuple[float, float] | None
  floor: float | None
  ceiling: float | None


def drawn(text: str) -> str:
  """Returns a page whose tables that can be drawn are below their plots."""

  def one(match: re.Match[str]) -> str:
    rows = cells(match[0])
    plot = of_scores(rows) or of_curves(rows)
    if not plot:
      return match[0]
    table = ''.join(f'    {line}\n' for line in match[0].splitlines())
    return f'{plot}\n\n??? note "The numbers of this plot"\n\n{table}'

  return TABLE.sub(one, text)


def cells(table: str) -> list[list[str]]:
  """Returns the cells of a Markdown table, the head first."""
  rows = [
    [cell.strip() for cell in line.strip('|\n').split('|')]
    for line in table.splitlines()
  ]
  return [row for row in rows if not re.fullmatch('-+', row[0])]


def number(text: str) -> float | None:
  """Returns the number of a cell, None for another content."""
  match = _NUMBER.match(text)
  return float(match[1].replace(',', '')) if match else None


def scores(rows: Sequence[Sequence[str]]) -> list[Score]:
  """Returns the scores of a table that are shares, [] for other tables."""
  head, *body = rows
  pairs = [i for i, cell in enumerate(head) if cell == '95 % interval']
  if head[0] != 'score' or not pairs:
    return []
  found = []
  for row in body:
    named = dict(zip(head, row, strict=False))
    outer = [number(named.get(name, '')) for name in ('floor', 'ceiling')]
    for i in pairs:
      value, interval = number(row[i - 1]), _INTERVAL.match(row[i])
      is_share = value is not None and 0 <= value <= 1
      if not is_share or _DISTANCES.match(row[0]):
        continue
      found.append(
        Score(
          name=row[0],
          series=head[i - 1],
          value=value,
          interval=(float(interval[1]), float(interval[2]))
          if interval
          else None,
          floor=outer[0],
          ceiling=outer[1],
        )
      )
  return found


def of_scores(rows: Sequence[Sequence[str]]) -> str:
  """Returns the plot of a table of scores with intervals, '' for others."""
  found = scores(rows)
  if len(found) < 2:
    return ''
  names = list(dict.fromkeys(score.name for score in found))
  series = list(dict.fromkeys(score.series for score in found))
  height = _ROW * len(names) + 24
  parts = list(_axis(_LEFT, height - 20))
  for score in found:
    row, which = names.index(score.name), series.index(score.series)
    y = _ROW * row + 14 + 7 * (which - (len(series) - 1) / 2)
    if not which:
      parts.append(_text(_LEFT - 8, y + 4, score.name, 'end'))
      parts += [_mark(x, y) for x in (score.floor, score.ceiling) if _shown(x)]
    parts += _point(score, y, _COLOURS[which % len(_COLOURS)])
  legend = series if len(series) > 1 else []
  words = 'Scores with 95 % intervals; bars are floor and ceiling.'
  return _svg(parts, height, legend, words)


def of_curves(rows: Sequence[Sequence[str]]) -> str:
  """Returns curves of a table by step or images, '' for other tables."""
  head, *body = rows
  axis = next((name for name in _PROGRESS if name in head[:2]), None)
  if axis is None or len(body) < 3 or any(len(r) != len(head) for r in body):
    return ''
  at = head.index(axis)
  xs = [number(row[at]) for row in body]
  if any(x is None for x in xs):
    return ''
  lines = {}
  for i, name in enumerate(head):
    ys = [number(row[i]) for row in body]
    if all(y is not None and 0 <= y <= 1 for y in ys):
      lines[name] = ys
  if not lines:
    return ''
  return _curves(axis, [float(x or 0) for x in xs], lines)


def _curves(axis: str, xs: list[float], lines: dict) -> str:
  last, bottom = max(xs) or 1.0, _HEIGHT - 30
  place = lambda x, y: (
    _LEFT + _WIDTH * x / last,
    bottom - (bottom - 10) * y,
  )
  parts = []
  for y in (0.0, 0.5, 1.0):
    (x0, height), (x1, _) = place(0, y), place(last, y)
    parts.append(_line(x0, height, x1, height, 'currentColor', 0.2))
    parts.append(_text(x0 - 8, height + 4, f'{y:g}', 'end'))
  for x in (xs[0], xs[-1]):
    parts.append(_text(place(x, 0)[0], bottom + 18, f'{x:,.0f}', 'middle'))
  parts.append(_text(_LEFT + _WIDTH / 2, bottom + 18, axis, 'middle', 'italic'))
  for which, ys in enumerate(lines.values()):
    colour = _COLOURS[which % len(_COLOURS)]
    points = [place(x, y) for x, y in zip(xs, ys, strict=True)]
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
    parts.append(
      f'<polyline points="{path}" fill="none" stroke="{colour}"'
      ' stroke-width="2"/>'
    )
    parts += [
      f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
      for x, y in points
    ]
  return _svg(parts, _HEIGHT, list(lines), f'Scores by {axis}.')


def _shown(x: float | None) -> bool:
  return x is not None and 0 <= x <= 1


def _place(value: float) -> float:
  return _LEFT + _WIDTH * value


def _axis(left: int, bottom: int) -> Iterator[str]:
  for part in (0.0, 0.25, 0.5, 0.75, 1.0):
    x = left + _WIDTH * part
    yield _line(x, 0, x, bottom, 'currentColor', 0.15)
    yield _text(x, bottom + 16, f'{part:g}', 'middle')


def _point(score: Score, y: float, colour: str) -> list[str]:
  x, parts = _place(score.value), []
  if score.interval:
    low, high = map(_place, score.interval)
    parts.append(_line(low, y, high, y, colour, 1, 4))
  words = f'{score.name} {score.value:g}'
  parts.append(
    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">'
    f'<title>{html.escape(words)}</title></circle>'
  )
  return parts


def _mark(value: float | None, y: float) -> str:
  x = _place(value or 0.0)
  return _line(x, y - 7, x, y + 7, 'currentColor', 0.6, 2)


def _line(
  x0: float,
  y0: float,
  x1: float,
  y1: float,
  colour: str,
  opacity: float,
  width: int = 1,
) -> str:
  return (
    f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"'
    f' stroke="{colour}" stroke-opacity="{opacity}" stroke-width="{width}"/>'
  )


def _text(
  x: float, y: float, words: str, anchor: str, style: str = 'normal'
) -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12"'
    f' font-style="{style}" fill="currentColor">{html.escape(words)}</text>'
  )


def _svg(
  parts: Sequence[str], height: int, legend: Sequence[str], words: str
) -> str:
  width = _LEFT + _WIDTH + 30
  parts, top = list(parts), height
  for which, name in enumerate(legend):
    x, y = _LEFT + 210 * (which % 2), top + 14 + 18 * (which // 2)
    colour = _COLOURS[which % len(_COLOURS)]
    parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>')
    parts.append(_text(x + 10, y + 4, name, 'start'))
  height += 18 * ((len(legend) + 1) // 2) + 6 * bool(legend)
  return (
    f'<svg class="plot" role="img" aria-label="{html.escape(words)}"'
    f' viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'
  )
