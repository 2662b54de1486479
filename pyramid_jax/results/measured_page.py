"""The page of measured runs, from what they left: no number of it is typed."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

from pyramid_jax.files import whole_files
from pyramid_jax.report import elements
from pyramid_jax.report import records
from pyramid_jax.results import rows as rows_lib
from pyramid_jax.results import running
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import throughput


_SIDE, _BYTES = 640, 120_000  # of the images of a run
_MOST_STEPS = 12  # rows of a curve
_SCORE = 'eval/'
_NOT_RUN = 'not run'


def write(
  tier: str, folder: pathlib.Path, page: pathlib.Path
) -> dict[str, bool]:
  """Writes the page of a tier and its images; returns which rows are done.

  Args:
    tier: one of `rows.TIERS`.
    folder: of all rows.
    page: a Markdown file; images are in `images/STEM` beside it.

  Raises:
    UserError: a result is damaged, or a file cannot be written.
  """
  parts = [_head(tier)]
  done: dict[str, bool] = {}
  images = page.parent / 'images' / page.stem
  for table in rows_lib.TABLES:
    if table.tier != tier:
      continue
    found = {row.name: _Found(row, folder) for row in table.rows}
    done |= {name: one.is_done for name, one in found.items()}
    parts.append(_table(table, found))
    for one in found.values():
      if one.is_done:
        parts.append('\n'.join(_details(one, table.scores, images)))
  whole_files.make_folder(page.parent)
  whole_files.save_text(page, '\n\n'.join(parts) + '\n')
  return done


class _Found:
  """What a row left."""

  def __init__(self, row: rows_lib.Row, folder: pathlib.Path):
    self.row, self.folder = row, folder
    self.result = running.read(folder, row.name)
    self.is_done = running.is_done(self.result, row, folder)
    self.records = self.first_stage = None
    if self.is_done:
      self.records = records.read(folder / row.name)
      place = folder / row.name / pretrained.FIRST_STAGE
      if self.records.has_first_stage and not row.fields:
        self.first_stage = records.read(place)

  @property
  def scores(self) -> Mapping[str, Mapping[str, Any]]:
    """The table that the last evaluation wrote."""
    tables = self.records.tables if self.records else ()
    return tables[0].scores if tables else {}

  @property
  def training(self) -> Mapping[str, Any]:
    """Images and seconds, those of a first stage that it trained included."""
    stages = [x for x in (self.first_stage, self.records) if x is not None]
    sums = [throughput.summary(stage.starts) for stage in stages]
    return {name: sum(x[name] for x in sums) for name in ('images', 'secs')}


def _head(tier: str) -> str:
  return f"""# Measured runs: {tier}

`python -m pyramid_jax.commands.results --tier={tier} --workdir=DIR` trains,
samples and scores every row below, goes on where it was stopped, and writes
this page; no number on it is typed. A cell is a score with its 95 % bootstrap
interval over images; the last row of a table has the scores of real images of
the same conditions. One run each, with the seed of its config."""


def _table(table: rows_lib.Table, found: Mapping[str, _Found]) -> str:
  names = ('run', 'images', 'training, minutes', *table.scores, 'commit')
  lines = [f'## {table.title}', '', *_markdown_head(names)]
  real: dict[str, str] = {}
  for name, one in found.items():
    lines.append(_line([f'`{name}`', *_cells(one, table.scores)]))
    for score in table.scores:
      ceiling = one.scores.get(score, {}).get('ceiling')
      if ceiling is not None:
        real.setdefault(score, f'{ceiling:.3f}')
  if real:
    cells = [real.get(score, '-') for score in table.scores]
    lines.append(_line(['real images', '-', '-', *cells, '-']))
  return '\n'.join(lines)


def _cells(one: _Found, scores: Sequence[str]) -> list[str]:
  if not one.is_done or one.result is None:
    failure = one.result.failure if one.result else ''
    state = f'failed ({failure.partition(",")[0]})' if failure else _NOT_RUN
    return [state, *('-' for _ in scores), '-', '-']
  training = one.training
  return [
    f'{training["images"]:,}',
    f'{training["secs"] / 60:.1f}',
    *(_score(one.scores.get(score)) for score in scores),
    one.result.commit or '-',
  ]


def _score(score: Mapping[str, Any] | None) -> str:
  if score is None or score['value'] != score['value']:
    return '-'
  value = f'{score["value"]:.3f}'
  if score.get('low') is None:
    return value
  return f'{value} ({score["low"]:.3f} .. {score["high"]:.3f})'


def _markdown_head(names: Sequence[str]) -> list[str]:
  return [_line(names), '|' + '---|' * len(names)]


def _line(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |'


def _details(
  one: _Found, scores: Sequence[str], images: pathlib.Path
) -> Iterator[str]:
  """Yields the lines of a run: its commands, images and curve."""
  result, row = one.result, one.row
  assert result is not None
  assert one.records is not None
  yield f'### `{row.name}`'
  yield ''
  yield '```'
  for arguments in running.shown(result, row, one.folder):
    yield f'python -m pyramid_jax.main {arguments}'
  yield '```'
  yield ''
  spent = ', '.join(
    f'{mode} {elements.duration(secs)} ({result.cpu_secs[mode]:.0f} s of'
    ' processors)'
    for mode, secs in result.spent_secs.items()
  )
  versions = ', '.join(f'{k} {v}' for k, v in result.versions.items())
  yield f'{result.host}; {versions}; {spent}.'
  if (name := _grid(one, images)) is not None:
    yield ''
    yield f'![Images of {row.name}](images/{images.name}/{name})'
  if curve := _curve(one.records, scores):
    yield ''
    yield 'Scores of the validation split during training:'
    yield ''
    yield from curve


def _grid(one: _Found, images: pathlib.Path) -> str | None:
  """Writes a small copy of the newest grid; returns its name."""
  assert one.records is not None
  if not one.records.grids:
    return None
  titles = {grid.title: grid for grid in one.records.grids}
  grid = titles.get('samples/grid.png', one.records.grids[0])
  name = f'{one.row.name}.jpg'
  whole_files.make_folder(images)
  whole_files.save(images / name, lambda file: file.write(grid.jpeg))
  return name


def _curve(found: records.Records, scores: Sequence[str]) -> list[str]:
  """Returns the table of the validation scores by step, [] without any."""
  curves = {
    score: dict(found.curves[_SCORE + score])
    for score in scores
    if _SCORE + score in found.curves
  }
  steps = sorted({step for curve in curves.values() for step in curve})
  if len(steps) < 2:
    return []
  lines = _markdown_head(('step', *curves))
  for step in records.spread(steps, _MOST_STEPS):
    values = (curve.get(step) for curve in curves.values())
    cells = ('-' if x is None else f'{x:.3f}' for x in values)
    lines.append(_line([str(step), *cells]))
  return lines
