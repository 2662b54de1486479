"""The plans of the published configs on their pods, as the table of a page.

  python benchmarks/plans.py [--only=TEXT] [--limit_secs=3600] [--small]

Every row of plans.json is a run of `--mode=plan`, whose plan.json stays in the
folder plans/. A row that is there and was asked for in the same way is not
compiled again, so the script goes on where it was stopped; one that takes
longer than the limit is left out, and tried again the next time. In the end the
table between the two markers of docs/scaling.md is written. `--small` compiles
the debug variants for two GPUs, which need no libtpu.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

from absl import flags
import measuring

from pyramid_jax.files import json_text


_ONLY = flags.DEFINE_string('only', '', 'rows whose name has this text')
_LIMIT = flags.DEFINE_float('limit_secs', 3600, 'of a row')
_FOLDER = flags.DEFINE_string('plans', '', 'of the plans; plans/ beside this')
_PAGE = flags.DEFINE_string('page', '', 'with the markers; docs/scaling.md')

ROOT = pathlib.Path(__file__).resolve().parents[1]
BEGIN, END = '<!-- plans: begin -->', '<!-- plans: end -->'
HEAD = (
  *('config', 'topology', 'program', 'mesh', 'batch', 'compiled to'),
  *('state and weights, GiB', 'peak, GiB', 'FLOP / model'),
  *('compute, memory, interconnect, ms', 'images/s', 'MFU', 'compiler, s'),
)
BATCH = {'train': 'train.batch_size', 'sampler': 'sample.batch_size'}
Row = Mapping[str, Any]


def command(row: Row) -> list[str]:
  """Returns the flags of a row.

  Args:
    row: `config`, `topology`, `program`, `batch` and `until`; `fields` of the
      config.
  """
  fields = {BATCH[row['program']]: row['batch'], **row.get('fields', {})}
  return [
    '--mode=plan',
    '--one_batch',
    f'--config={row["config"]}',
    f'--topology={row["topology"]}',
    f'--programs={row["program"]}',
    f'--until={row["until"]}',
    *(f'--config.{name}={value}' for name, value in fields.items()),
  ]


def name_of(row: Row) -> str:
  """Returns the folder of a row."""
  stem = pathlib.Path(row['config']).name.replace('.py:', '_').replace(',', '_')
  topology = row['topology'].replace(':', '_')
  mesh = ''.join(
    f'_{name.rpartition(".")[2]}{value}'
    for name, value in row.get('fields', {}).items()
    if name.startswith('mesh.')
  )
  return f'{stem}_{topology}_{row["program"]}_{row["batch"]}{mesh}'


def small(row: Row) -> Row:
  """Returns a row that takes seconds; rows become alike."""
  fields = {name: row.get('fields', {}).get(name) for name in ('data.name',)}
  return {
    **row,
    'config': f'{row["config"]},debug',
    'topology': 'h100:2x1',
    'batch': 6,
    'fields': {name: value for name, value in fields.items() if value},
  }


def made(row: Row, folder: pathlib.Path) -> Row | None:
  """Returns the plan of a row, made unless it is there; None if that fails."""
  here, asked = folder / name_of(row), command(row)
  done = here / 'command.json'
  if not done.exists() or json_text.read(done) != asked:
    main = (sys.executable, '-m', 'pyramid_jax.main')
    start = time.monotonic()
    try:
      subprocess.run(
        [*main, *asked, f'--workdir={here}'],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': _path()},
        stdout=subprocess.DEVNULL,
        timeout=_LIMIT.value,
        check=True,
      )
    except subprocess.SubprocessError as error:
      print(f'{here.name}: {error}', file=sys.stderr)
      return None
    done.write_text(json.dumps(asked))
    print(f'{here.name}: {time.monotonic() - start:.0f} s', file=sys.stderr)
  found = json_text.read(here / 'plan.json')
  return found if row['program'] == 'train' else found['sampler']


def _path() -> str:
  """Returns where processes find the package, and what this one finds."""
  return os.pathsep.join([os.fspath(ROOT), *filter(None, sys.path)])


def cells(row: Row, plan: Row) -> Iterator[str]:
  """Yields the cells of a row of the table."""
  gib = lambda value: '-' if value is None else f'{value / 2**30:.2f}'
  work = plan['model_flops_per_image'] * plan['batch'] / plan['devices']
  yield f'`{pathlib.Path(row["config"]).name}`'
  yield plan['topology']
  yield row['program']
  axes = plan['mesh'].split(' x ')
  yield ', '.join(axis for axis in axes if not axis.endswith(' 1')) or '-'
  yield str(plan['batch'])
  yield plan['stage']
  yield gib(plan['state_bytes'] + plan['frozen_bytes'])
  yield gib(plan['peak_bytes'])
  yield f'{plan["program_flops"] / work:.2f}'
  yield ', '.join(
    '-' if value is None else f'{1000 * value:.3g}'
    for value in plan['seconds'].values()
  )
  yield f'{plan["images_per_second"]:.3g}'
  floor, ceiling = plan['mfu_floor'], plan['mfu_ceiling']
  least = 'up' if floor is None else f'{floor:.0%}'
  yield f'{least} to {ceiling:.0%}'
  yield f'{plan["compile_seconds"]:.0f}'


def written(page: pathlib.Path, lines: list[str]) -> None:
  """Puts lines between the markers of a page."""
  before, _, rest = page.read_text().partition(BEGIN)
  _, _, after = rest.partition(END)
  table = '\n'.join([BEGIN, *lines, END])
  page.write_text(f'{before}{table}{after}')


def main(argv: list[str]) -> None:
  """Makes the plans that are missing, and the table of all that are there."""
  del argv
  rows = json_text.read(pathlib.Path(__file__).with_suffix('.json'))
  if measuring.SMALL.value:
    rows = [small(row) for row in rows]
  rows = list({name_of(row): row for row in rows}.values())
  folder = pathlib.Path(_FOLDER.value or ROOT / 'benchmarks' / 'plans')
  lines = [f'| {" | ".join(HEAD)} |', '|' + '---|' * len(HEAD)]
  for row in rows:
    is_there = (folder / name_of(row) / 'command.json').exists()
    if not is_there and _ONLY.value not in name_of(row):
      continue
    plan = made(row, folder)
    if plan is not None:
      lines.append(f'| {" | ".join(cells(row, plan))} |')
  written(pathlib.Path(_PAGE.value or ROOT / 'docs' / 'scaling.md'), lines)


if __name__ == '__main__':
  measuring.run(main)
