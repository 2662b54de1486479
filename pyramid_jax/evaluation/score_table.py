"""A table of scores: rows by task, the table as text, as JSON and on disk."""

from collections.abc import Sequence
import json
import math
from typing import Any

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
  """Returns the table: score, its 95 % interval, ceiling and floor.

  Lines behind it say which images scores compare with, and their hash.
  """
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
  lines += [''] if _references(rows) else []
  for reference, names in _references(rows).items():
    lines.append(f'{", ".join(names)}: against {reference}')
  return '\n'.join(lines) + '\n'


def _references(rows: Sequence[Row]) -> dict[str, list[str]]:
  """Returns the names of the scores of each set that is compared with."""
  names: dict[str, list[str]] = {}
  for row in rows:
    if row.reference:
      names.setdefault(row.reference, []).append(row.name)
  return names


def to_json(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
  """Returns {name: {value, low, high, n, ceiling, floor, reference}}.

  An interval that is not known is null, and so is a reference.
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
      'reference': row.reference or None,
    }
    for row in rows
  }
