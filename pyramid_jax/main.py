"""Flags in, one call out; see `--help`, README.md and the configs."""

import importlib
import os
import pathlib
import sys
import traceback

from absl import app
import jax

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import options
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.runs import writers as logs


def main(overrides: dict[str, str]) -> int:
  """Does what the flags say and returns the exit code."""
  _cache_programs()
  workdir = pathlib.Path(options.WORKDIR.value)
  path = options.CONFIG.value
  config = config_lib.load(path) if path else workdir_lib.read_config(workdir)
  config_lib.override(config, overrides)
  config_lib.validate(config)
  name = f'pyramid_jax.commands.{options.MODE.value}'
  importlib.import_module(name).run(config, workdir, options.values())
  return errors.OK


def _cache_programs() -> None:
  """Keeps compiled programs, so that a second start is quick."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    path = pathlib.Path('~/.cache/pyramid_jax/xla').expanduser()
    jax.config.update('jax_compilation_cache_dir', os.fspath(path))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def run() -> int:
  """Runs the command line; an error becomes one line and its exit code."""
  logs.setup()
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
