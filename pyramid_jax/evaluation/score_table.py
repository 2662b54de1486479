"""A table of scores: rows by task, the table as text, as JSON and on disk."""

from collections.abc import Sequence
import json
import math

from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.metrics import bootstrap


Row = bootstrap.Row


def write(folder: stores.Path, about: str, rows: Sequence[Row]) -> None:
  """Writes `scores.json` and `scores.md`; `about` is their headline.

  Each appears when it is whole; a folder that cannot be written is a UserError.
  """
  table = {'about': about, 'scores': to_json(rows)}
  texts = {
    'scores.md': f'{about}\n\n{to_markdown(rows)}',
    'scores.json': json.dumps(table, indent=2) + '\n',
  }
  whole_files.make_folder(folder)
  for name, text in texts.items():
    whole_files.save_text(folder / name, text)


def to_markdown(rows: Sequence[Row]) -> str:
  """Returns the table: score, its 95 % interval, ceiling and floor."""
  lines = [
    '| score | value | 95 % interval | ceiling | floor | n |',
    '|---|---|---|---|---|---|',
  ]
  number = lambda s: '-' if s is None else f'{s.value:.4g}'
  for row in rows:
    s = row.score
    known = math.isfinite(s.low) and math.isfinite(s.high)
    interval = f'{s.low:.4g} .. {s.high:.4g}' if known else '-'
    lines.append(
      f'| {row.name} | {s.value:.4g} | {interval} |'
      f' {number(row.ceiling)} | {number(row.floor)} | {s.n} |'
    )
  return '\n'.join(lines) + '\n'


def to_json(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
  """Returns {name: {value, low, high, n, ceiling, floor}}.

  An interval that is not known is null.
  """
  value = lambda s: None if s is None else s.value
  known = lambda x: x if math.isfinite(x) else None
  return {
    row.name: {
      'value': row.score.value,
      'low': known(row.score.low),
      'high': known(row.score.high),
      'n': row.score.n,
      'ceiling': value(row.ceiling),
      'floor': value(row.floor),
    }
    for row in rows
  }
