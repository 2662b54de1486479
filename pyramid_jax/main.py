"""Flags in, one call out; see `--help`, README.md and the configs."""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.main', 'run')

import ast
from collections.abc import Sequence
import contextlib
import faulthandler
import importlib
import pathlib
import sys

from absl import logging
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import options
from pyramid_jax.config import command_line
from pyramid_jax.config import listing
from pyramid_jax.config import paths
from pyramid_jax.runs import writers


_RUNS = pathlib.Path('runs')


def main(given: options.CommandLine) -> None:
  """Does what a command line says."""
  if given.mode == options.PLAN:
    _plan(given)
    return
  from pyramid_jax.distributed import program_cache  # loads jax

  program_cache.keep()
  config, workdir = _config(given)
  if workdir is None:
    workdir = _RUNS / (config.name or config.system.name)
    logging.info('workdir: %s; --workdir=DIR chooses another', workdir)
  from pyramid_jax.distributed import startup  # loads jax

  with startup.joined(config.distributed):
    name = f'pyramid_jax.commands.{given.mode}'
    importlib.import_module(name).run(config, workdir, given.values)


def _plan(given: options.CommandLine) -> None:
  """Plans a run for devices that are not here, in one process."""
  from pyramid_jax.planning import topologies

  topologies.prepare(
    topologies.of_options(given.values)
  )  # before jax is loaded
  config, workdir = _config(given)
  from pyramid_jax.commands import plan  # loads jax

  plan.run(config, workdir, given.values)


def _config(
  given: options.CommandLine,
) -> tuple[ConfigDict, pathlib.Path | None]:
  """Returns the config, complete, and the workdir if it is given."""
  file, workdir = given.values['config'], given.values['workdir']
  if workdir is not None:
    workdir = paths.folder(workdir, '--workdir')
  if file is not None:
    config = config_lib.load(file)
  elif workdir is not None:
    from pyramid_jax.runs import workdir as workdir_lib  # loads Orbax

    config = workdir_lib.read_config(workdir)
  else:
    raise errors.UserError(
      'give --config=FILE.py[:variant,...], such as those of --list_configs, or'
      ' --workdir=DIR of a run; see --help.'
    )
  config = config_lib.complete(config, given.overrides)
  return config, workdir


def programs() -> dict[str, str]:
  """Returns what each program beside the modes does, by name."""
  found = {}
  for file in sorted((pathlib.Path(__file__).parent / 'commands').glob('*.py')):
    tree = ast.parse(file.read_text())
    defined = [x.name for x in tree.body if isinstance(x, ast.FunctionDef)]
    if 'main' in defined:
      words = ast.get_docstring(tree) or ''
      found[file.stem] = words.partition('\n')[0]
  return found


def _help(arguments: Sequence[str]) -> str:
  """Returns the text of --help."""
  text = options.help_of(arguments)
  lines = [f'  {name:<15} {words}' for name, words in programs().items()]
  others = '\n'.join(lines)
  return (
    f'{text}\nprograms: pyramid-jax NAME --help, or python -m'
    f' pyramid_jax.commands.NAME --help\n{others}\n'
  )


def _dispatch(arguments: Sequence[str]) -> int:
  """Does what a command line says, or another program; returns its code."""
  first = arguments[0] if arguments else '-'
  if not first.startswith('-') and first in programs():
    name = f'pyramid_jax.commands.{first}'
    return int(importlib.import_module(name).main(arguments[1:]))
  if '--help' in arguments or '-h' in arguments:
    sys.stdout.write(_help(arguments))
    return errors.OK
  given = options.parse(arguments)
  if given.values['verbosity'] is not None:
    logging.set_verbosity(given.values['verbosity'])
  if given.values['list_configs']:
    sys.stdout.write(f'{listing.configs()}\n')
  elif given.values['help_config']:
    sys.stdout.write(f'{listing.fields(_config(given)[0])}\n')
  else:
    main(given)
  return errors.OK


def run(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line; an error becomes one line and its exit code.

  Args:
    arguments: those of the command line; None for those of the process.
  """
  writers.setup()
  if not faulthandler.is_enabled():
    with contextlib.suppress(OSError):  # a stderr that is no file
      faulthandler.enable()
  given = sys.argv[1:] if arguments is None else arguments
  return command_line.exit_code(lambda: _dispatch(given))
