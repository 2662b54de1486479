"""Runs the commands of a row, each once, and keeps what they took."""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

from absl import logging

from pyramid_jax import errors
from pyramid_jax.distributed import host
from pyramid_jax.files import json_text
from pyramid_jax.files import whole_files
from pyramid_jax.results import rows as rows_lib


FILE = 'result.json'
# The package and the configs are found from here.
ROOT = pathlib.Path(__file__).resolve().parents[2]
_MOST_STARTS = 20  # of a command that ends with `errors.RESTART`
# Two devices, each with half of a batch, use two cores better than one does.
_TWO_DEVICES = '--xla_force_host_platform_device_count=2'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """What is known of a row: `result.json` in its folder."""

  flags: tuple[str, ...]  # of training
  commit: str  # '' outside of a repository; with '+' if files differed
  host: str
  versions: Mapping[str, str]
  spent_secs: Mapping[str, float]  # by the mode that ended well
  cpu_secs: Mapping[str, float]
  failure: str = ''  # of the mode that ran last


def commands(
  row: rows_lib.Row, folder: pathlib.Path, small: bool = False
) -> Iterator[tuple[str, list[str]]]:
  """Yields the modes of a row and the flags of each.

  Args:
    row: of the tables.
    folder: of all rows.
    small: takes the variant `debug` of the config.
  """
  others = {name: os.fspath(folder / name) for name in row.needs}
  config = row.config
  if small:
    config += f'{"," if ":" in config else ":"}debug'
  workdir = f'--workdir={folder / row.name}'
  fields = [
    f'--config.{name}={value.format(**others)}'
    for name, value in row.fields.items()
  ]
  yield 'train', [f'--config={config}', workdir, *fields]
  if row.is_sampled:
    yield 'sample', ['--mode=sample', workdir]
  yield 'evaluate', ['--mode=evaluate', workdir]


def read(folder: pathlib.Path, name: str) -> Result | None:
  """Returns the result of a row, None if it was never begun.

  Raises:
    UserError: the file is damaged.
  """
  path = folder / name / FILE
  try:
    values = json_text.read(path)
    return Result(**{**values, 'flags': tuple(values['flags'])})
  except FileNotFoundError:
    return None
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise errors.UserError(
      f'{path}: no result of a row ({error}); remove it to measure it again.',
      errors.DATA,
    ) from error


def shown(
  result: Result, row: rows_lib.Row, folder: pathlib.Path
) -> Iterator[str]:
  """Yields the arguments of the commands that made a row; its folder is DIR."""
  flags = dict(commands(row, folder)) | {'train': list(result.flags)}
  for arguments in flags.values():
    yield ' '.join(arguments).replace(os.fspath(folder), 'DIR')


def is_done(
  result: Result | None, row: rows_lib.Row, folder: pathlib.Path
) -> bool:
  """Whether all commands of a row ended well."""
  modes = {mode for mode, _ in commands(row, folder)}
  return result is not None and modes <= result.spent_secs.keys()


def run(
  row: rows_lib.Row,
  folder: pathlib.Path,
  *,
  tier: str,
  small: bool = False,
) -> Result:
  """Runs the commands of a row that have not ended well yet.

  What each prints is in `MODE.log` in the folder of the row. A row that failed
  goes on where it failed.

  Raises:
    UserError: the row was begun with other flags.
  """
  made = dict(commands(row, folder, small))
  flags, before = tuple(made['train']), read(folder, row.name)
  if before is not None and before.flags != flags:
    raise errors.UserError(
      f'{folder / row.name} was made with {" ".join(before.flags)}, not with'
      f' {" ".join(flags)}; remove it to measure it again.'
    )
  result = before or Result(
    flags=flags,
    commit=_commit(),
    host=host.described(),
    versions=host.versions(),
    spent_secs={},
    cpu_secs={},
  )
  whole_files.make_folder(folder / row.name)
  for mode, arguments in made.items():
    if mode in result.spent_secs:
      continue
    logging.info('%s: %s', row.name, mode)
    result = _with_mode(result, mode, _ran(arguments, mode, folder, row, tier))
    text = json.dumps(dataclasses.asdict(result), indent=2) + '\n'
    whole_files.save_text(folder / row.name / FILE, text)
    if result.failure:
      logging.error('%s: %s', row.name, result.failure)
      break
  return result


def _with_mode(result: Result, mode: str, ran: Mapping[str, Any]) -> Result:
  if ran['failure']:
    return dataclasses.replace(result, failure=f'{mode}: {ran["failure"]}')
  return dataclasses.replace(
    result,
    failure='',
    spent_secs={**result.spent_secs, mode: ran['secs']},
    cpu_secs={**result.cpu_secs, mode: ran['cpu_secs']},
  )


def _ran(
  arguments: list[str],
  mode: str,
  folder: pathlib.Path,
  row: rows_lib.Row,
  tier: str,
) -> dict[str, Any]:
  """Runs a command until it does not ask for a restart; returns what it took.

  A run that was stopped before and goes on has the seconds of this command
  alone.
  """
  env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])}
  if tier == 'cpu':
    env.setdefault('XLA_FLAGS', _TWO_DEVICES)
    env.setdefault('JAX_PLATFORMS', 'cpu')
  log = folder / row.name / f'{mode}.log'
  start, cpu = time.monotonic(), _children_secs()
  code = errors.RESTART
  with open(log, 'ab') as file:
    for _ in range(_MOST_STARTS):
      code = subprocess.run(
        [sys.executable, '-m', 'pyramid_jax', *arguments],
        cwd=ROOT,
        env=env,
        stdout=file,
        stderr=subprocess.STDOUT,
        check=False,
      ).returncode
      if code != errors.RESTART:
        break
  failure = f'ended with {code}, see {log}' if code else ''
  return {
    'failure': failure,
    'secs': round(time.monotonic() - start, 1),
    'cpu_secs': round(_children_secs() - cpu, 1),
  }


def _children_secs() -> float:
  """Returns the processor seconds of all commands that have ended."""
  times = os.times()
  return times.children_user + times.children_system


def _commit() -> str:
  """Returns the commit of the package, with '+' if its files differ from it."""
  git = ('git', '-C', os.fspath(ROOT))

  def said(*arguments: str) -> str:
    try:
      done = subprocess.run(
        [*git, *arguments], capture_output=True, text=True, check=False
      )
    except OSError:  # there is no git
      return ''
    return done.stdout.strip()

  commit = said('rev-parse', '--short', 'HEAD')
  changed = said('status', '--porcelain', '--', 'pyramid_jax', 'configs')
  return f'{commit}+' if commit and changed else commit
