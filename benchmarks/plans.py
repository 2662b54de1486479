"""The plans of the published configs on their pods, as the table of a page.

  python benchmarks/plans.py [--only=TEXT] [--limit_secs=1200] [--small]

Every row of plans.json is a run of `--mode=plan`, whose plan.json stays in the
folder plans/, beside it row.json: the flags, the commit of this repository, and
what the machine here spent. A row that is there and was asked for in the same
way is not compiled again, so the script goes on where it was stopped. One that
fails or takes longer than the limit says so in the table, and is tried again
the next time. In the end the table between the two markers of docs/scaling.md
is written, of all rows that are there; `--only=none` writes it alone. `--small`
compiles the debug variants for two GPUs, which need no libtpu.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
import measuring

from pyramid_jax.files import json_text


_ONLY = flags.DEFINE_string('only', '', 'make rows whose name has this text')
_LIMIT = flags.DEFINE_float('limit_secs', 1200, 'of a row')
_FOLDER = flags.DEFINE_string('plans', '', 'of the plans; plans/ beside this')
_PAGE = flags.DEFINE_string('page', '', 'with the markers; docs/scaling.md')

ROOT = pathlib.Path(__file__).resolve().parents[1]
BEGIN, END = '<!-- plans: begin -->', '<!-- plans: end -->'
HEAD = (
  *('config', 'topology', 'program', 'mesh', 'batch', 'compiled to'),
  *('state and weights, GiB', 'peak, GiB', 'FLOP / model'),
  *('HBM / least', 'compute, memory, interconnect, ms', 'images/s', 'MFU'),
  *('compiler, s', 'here: CPU s', 'GiB', 'commit'),
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
  until = '' if row['until'] == 'end' else f'_{row["until"]}'
  return f'{stem}_{topology}_{row["program"]}_{row["batch"]}{mesh}{until}'


def small(row: Row) -> Row:
  """Returns a row that takes seconds; rows become alike."""
  fields = {name: row.get('fields', {}).get(name) for name in ('data.name',)}
  return {
    **row,
    'config': f'{row["config"]},debug',
    'topology': 'h100:2x1',
    'batch': 6,
    'until': 'end',
    'fields': {name: value for name, value in fields.items() if value},
  }


def make(row: Row, folder: pathlib.Path) -> None:
  """Makes the plan of a row, unless it is there as the row asks for it."""
  before = known(row, folder)
  if before is not None and not before['failure']:
    return
  here, asked = folder / name_of(row), command(row)
  here.mkdir(parents=True, exist_ok=True)
  (here / 'plan.json').unlink(missing_ok=True)
  found = {'flags': asked, 'commit': _commit(), **_ran(here, asked)}
  (here / 'row.json').write_text(json.dumps(found, indent=2) + '\n')
  failure = found['failure'] and f', {found["failure"]}'
  print(f'{here.name}: {found["secs"]} s{failure}', file=sys.stderr)


def _ran(here: pathlib.Path, asked: list[str]) -> dict[str, Any]:
  """Runs a plan; returns what it took here, and why it failed or ''."""
  main = (sys.executable, '-m', 'pyramid_jax.main')
  start = time.monotonic()
  with tempfile.TemporaryFile('w+') as errors:
    process = subprocess.Popen(
      [*main, *asked, f'--workdir={here}'],
      cwd=ROOT,
      env={**os.environ, 'PYTHONPATH': _path()},
      stdout=subprocess.DEVNULL,
      stderr=errors,
    )
    while True:
      ended, status, used = os.wait4(process.pid, os.WNOHANG)
      if ended:
        break
      if time.monotonic() - start > _LIMIT.value:
        process.kill()
      time.sleep(0.2)
    process.returncode = os.waitstatus_to_exitcode(status)
    errors.seek(0)
    *_, last = [*filter(str.strip, errors), '']
  secs = round(time.monotonic() - start)
  failure = ''
  if process.returncode < 0 and secs >= _LIMIT.value:
    failure = f'not within {_LIMIT.value:.0f} s'
  elif process.returncode:
    failure = f'ended with {process.returncode}: {last.strip()[:200]}'
  cpu = round(used.ru_utime + used.ru_stime)
  return {
    **{'failure': failure, 'secs': secs, 'cpu_secs': cpu},
    'host_bytes': used.ru_maxrss * 1024,  # of its largest process
  }


def _commit() -> str:
  """Returns the commit of this repository, with '+' if files differ from it."""
  git = ('git', '-C', os.fspath(ROOT))
  run = lambda *args: subprocess.run(
    [*git, *args], capture_output=True, text=True, check=False
  ).stdout.strip()
  changed = run('status', '--porcelain', '--', 'pyramid_jax', 'configs')
  return run('rev-parse', '--short', 'HEAD') + ('+' if changed else '')


def _path() -> str:
  """Returns where processes find the package, and what this one finds."""
  return os.pathsep.join([os.fspath(ROOT), *filter(None, sys.path)])


def known(row: Row, folder: pathlib.Path) -> Row | None:
  """Returns the row.json of a row, None if it was not made as it asks."""
  file = folder / name_of(row) / 'row.json'
  found = json_text.read(file) if file.exists() else None
  return found if found and found['flags'] == command(row) else None


def lines_of(row: Row, folder: pathlib.Path) -> Iterator[str]:
  """Yields the line of a row that was made.

  One until the partitioner has none where the same is there to its end.
  """
  found, whole = known(row, folder), known({**row, 'until': 'end'}, folder)
  is_covered = whole is not None and not whole['failure']
  if found is None or (is_covered and row['until'] != 'end'):
    return
  plan = None
  if not found['failure']:
    plan = json_text.read(folder / name_of(row) / 'plan.json')
    plan = plan if row['program'] == 'train' else plan['sampler']
  yield f'| {" | ".join(cells(row, plan, found))} |'


def cells(row: Row, plan: Row | None, made: Row) -> Iterator[str]:
  """Yields the cells of a row of the table.

  Args:
    row: of plans.json.
    plan: of its program, None if it failed.
    made: its row.json.
  """
  yield f'`{pathlib.Path(row["config"]).name}`'
  yield row['topology']
  yield row['program']
  if plan is None:
    empty = [''] * (len(HEAD) - 9)
    yield from ('', str(row['batch']), f'no: {made["failure"]}', *empty)
  else:
    yield from _planned(plan)
  yield str(made['cpu_secs'] or '-')
  yield _gib(made['host_bytes'])
  yield made['commit']


def _planned(plan: Row) -> Iterator[str]:
  """Yields the cells of a plan."""
  work = plan['model_flops_per_image'] * plan['batch'] / plan['devices']
  axes = plan['mesh'].split(' x ')
  yield ', '.join(axis for axis in axes if not axis.endswith(' 1')) or '-'
  yield str(plan['batch'])
  yield plan['stage']
  yield _gib(plan['state_bytes'] + plan['frozen_bytes'])
  yield _gib(plan['peak_bytes'])
  yield f'{plan["program_flops"] / work:.2f}'
  moved, least = plan['hbm_bytes'], plan.get('hbm_minimum_bytes')
  yield f'{moved / least:.2f}' if moved and least else '-'
  yield ', '.join(
    '-' if value is None else f'{1000 * value:.3g}'
    for value in plan['seconds'].values()
  )
  yield f'{plan["images_per_second"]:.3g}'
  floor, ceiling = plan['mfu_floor'], plan['mfu_ceiling']
  least = 'up' if floor is None else f'{floor:.0%}'
  yield f'{least} to {ceiling:.0%}'
  yield f'{plan["compile_seconds"]:.0f}'


def _gib(value: int | None) -> str:
  return '-' if value is None else f'{value / 2**30:.2f}'


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
  for row in rows:
    if _ONLY.value in name_of(row):
      make(row, folder)
  lines = [f'| {" | ".join(HEAD)} |', '|' + '---|' * len(HEAD)]
  for row in rows:
    lines += lines_of(row, folder)
  written(pathlib.Path(_PAGE.value or ROOT / 'docs' / 'scaling.md'), lines)


if __name__ == '__main__':
  measuring.run(main)
