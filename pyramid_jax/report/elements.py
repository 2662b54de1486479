"""Elements of HTML and SVG, of which all text is escaped."""

from collections.abc import Iterable
from collections.abc import Sequence
import html
from typing import Any

from pyramid_jax import errors


class Html(str):
  """A text that is HTML already."""


def text(value: Any) -> Html:
  """Returns a value as HTML that shows it, what is not printable escaped."""
  if isinstance(value, Html):
    return value
  return Html(html.escape(errors.printable(str(value))))


def join(parts: Iterable[Any], between: str = '') -> Html:
  """Returns parts one after the other."""
  return Html(text(between).join(text(part) for part in parts))


def tag(name: str, *children: Any, **attributes: Any) -> Html:
  """Returns an element; `class_` and the like are `class`, `_` is `-`."""
  words = ''.join(
    f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
    for key, value in attributes.items()
  )
  return Html(f'<{name}{words}>{join(children)}</{name}>')


def table(
  head: Sequence[Any], rows: Iterable[Sequence[Any]], numbers: bool = True
) -> Html:
  """Returns a table; all columns but the first are numbers, if they are."""
  kind = 'numbers' if numbers else 'words'
  names = tag('tr', *(tag('th', x, scope='col') for x in head))
  lines = [
    tag('tr', tag('th', row[0], scope='row'), *(tag('td', x) for x in row[1:]))
    for row in rows
  ]
  body = tag('table', tag('thead', names), tag('tbody', *lines), class_=kind)
  return tag('div', body, class_='wide')


def number(value: Any) -> str:
  """Returns a number in at most five digits, '-' in the place of None."""
  if value is None:
    return '-'
  if isinstance(value, int) and not isinstance(value, bool):
    return f'{value:,}'
  return f'{value:.4g}'


def duration(secs: float) -> str:
  """Returns '2 h 05 min', '3 min 20 s' or '1.5 s'."""
  if secs < 60:
    return f'{secs:.3g} s'
  minutes, rest = divmod(round(secs), 60)
  if minutes < 60:
    return f'{minutes} min {rest:02d} s'
  hours, minutes = divmod(minutes, 60)
  return f'{hours} h {minutes:02d} min'
