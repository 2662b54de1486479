"""Flags in, one call out; see `--help`, README.md and the configs."""

import importlib
import os
import pathlib
import sys
import traceback
from typing import Any

from absl import app
import jax

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import options
from pyramid_jax.runs import writers


# Programs that took longer to compile are kept; jax keeps those above 1 s.
_CACHED_SECS, _JAX_SECS = 0.1, 1.0


def main(overrides: dict[str, str]) -> int:
  """Does what the flags say and returns the exit code."""
  _cache_programs()
  workdir = options.workdir()
  if options.CONFIG.value:
    config = config_lib.load(options.CONFIG.value)
  else:
    from pyramid_jax.runs import workdir as workdir_lib  # loads Orbax

    config = workdir_lib.read_config(workdir)
  config_lib.complete(config, overrides)
  name = f'pyramid_jax.commands.{options.MODE.value}'
  importlib.import_module(name).run(config, workdir, options.values())
  return errors.OK


def _cache_programs() -> None:
  """Keeps compiled programs, so that a second start is quick.

  A setting of the environment or of jax is not changed.
  """
  if _setting('jax_compilation_cache_dir') is None:
    path = pathlib.Path('~/.cache/pyramid_jax/xla').expanduser()
    jax.config.update('jax_compilation_cache_dir', os.fspath(path))
  name = 'jax_persistent_cache_min_compile_time_secs'
  if name.upper() not in os.environ and _setting(name) == _JAX_SECS:
    jax.config.update(name, _CACHED_SECS)


def _setting(name: str) -> Any:
  return getattr(jax.config, name)


def run() -> int:
  """Runs the command line; an error becomes one line and its exit code."""
  writers.setup()
  try:
    app.run(main, flags_parser=options.parse)
  except errors.UserError as error:
    sys.stderr.write(f'error: {error}\n')
    return error.code
  except Exception:
    traceback.print_exc()
    return errors.BUG
  return errors.OK


if __name__ == '__main__':
  sys.exit(run())
