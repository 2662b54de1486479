"""The published experiments of tests/configs/official.json, and their table.

Run as a program, this prints configs/README.md.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import json
import pathlib
import sys
from typing import Any


ROOT = pathlib.Path(__file__).parents[2]
FILE = ROOT / 'tests' / 'configs' / 'official.json'
# Names of parts of a model in the file -> words of the table.
PARTS = {
  'all': 'all networks',
  'condition': 'condition encoder',
  'decoder': 'decoder',
  'encoder': 'encoder',
  'first_stage': 'first stage',
  'lpips': 'LPIPS',
  'network': 'network',
  'unet': 'U-Net',
}
HEAD = """\
# Published experiments and their configs

Every experiment of the papers that this library implements, the config that has
its values, and what was published about it. No score here is our own.
`tests/configs/official.json` has the published values with their sources, and
`tests/configs/official_test.py` compares each config with them.
`tests/helpers/published.py` writes this page.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
  """What a source says of a field of a config."""

  field: str
  value: Any
  source: str
  verified: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
  """A published number of parameters."""

  millions: float
  parts: tuple[str, ...]  # keys of `PARTS`, whose sizes are added
  unread: int  # parameters of the release that no step reads
  source: str
  verified: bool
  differs: str  # why the network of the published sizes has another number

  @property
  def tolerance(self) -> float:
    """Half a unit of the last digit, in millions."""
    return 0.5 * 10.0 ** -len(str(self.millions).partition('.')[2])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A published experiment; see the head of the file."""

  id: str
  paper: str
  table: str
  row: str
  config: str
  score: str
  sizes: tuple[Size, ...]
  values: tuple[Value, ...]
  differs: Mapping[str, str]
  few: str


@functools.cache
def document() -> Mapping[str, Any]:
  """Returns the file."""
  return json.loads(FILE.read_text())


def rows() -> tuple[Row, ...]:
  """Returns the experiments that have a config, in the order of the file."""
  return tuple(_row(item) for item in document()['rows'])


def _row(item: Mapping[str, Any]) -> Row:
  return Row(
    **{name: item[name] for name in ('id', 'paper', 'table', 'row', 'config')},
    score=item.get('score', ''),
    sizes=tuple(
      Size(
        millions=size['millions'],
        parts=tuple(size['of']),
        unread=size.get('unread', 0),
        source=size['source'],
        verified=size.get('verified', True),
        differs=size.get('differs', ''),
      )
      for size in item.get('parameters', ())
    ),
    values=tuple(_values(item['values'])),
    differs=item.get('differs', {}),
    few=item.get('few', ''),
  )


def _values(groups: list[str | Mapping[str, Any]]) -> Iterator[Value]:
  """Yields the values of groups, of which some have names and are shared."""
  for group in groups:
    fields = document()['shared'][group] if isinstance(group, str) else group
    for field, value in fields.items():
      if field in ('source', 'verified'):
        continue
      if isinstance(value, dict):  # with the rule that it follows from
        value = value['value']
      yield Value(
        field=field,
        value=tuple(value) if isinstance(value, list) else value,
        source=fields['source'],
        verified=fields.get('verified', True),
      )


def page() -> str:
  """Returns the text of configs/README.md."""
  parts = [HEAD]
  for paper, title in document()['papers'].items():
    parts += [
      f'\n## {title}\n\n',
      '| Experiment | Table or file | Config | Published score |'
      ' Published parameters |\n|---|---|---|---|---|\n',
    ]
    parts += [_line(row) for row in rows() if row.paper == paper]
  if document()['pending']:
    parts.append('\n## Without a config\n\n')
    parts += [
      f'- {name}: {why}\n' for name, why in document()['pending'].items()
    ]
  return ''.join(parts)


def _line(row: Row) -> str:
  """Returns the line of an experiment."""
  file = row.config.partition('.py')[0] + '.py'
  sizes = ', '.join(
    f'{size.millions} M ({" and ".join(PARTS[part] for part in size.parts)})'
    for size in row.sizes
  )
  cells = (row.row, row.table, f'[{row.config}]({file})', row.score, sizes)
  return f'| {" | ".join(cells)} |\n'


if __name__ == '__main__':
  sys.stdout.write(page())
