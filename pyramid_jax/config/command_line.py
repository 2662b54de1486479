"""What all command lines share: `--config.FIELD=VALUE`, errors, exit codes."""

import argparse
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import sys
from typing import Any
from typing import NoReturn

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import checks
from pyramid_jax.config import files
from pyramid_jax.config import overrides as overrides_lib
from pyramid_jax.config import paths


_OVERRIDE = '--config.'


def split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
  """Takes the overrides of the config out of a command line.

  Returns:
    {'train.steps': '1000'} for every `--config.train.steps=1000`, and the other
    arguments.

  Raises:
    UserError: an override without a value.
  """
  overrides, rest = {}, []
  for argument in arguments:
    name, equals, value = argument.removeprefix(_OVERRIDE).partition('=')
    if not argument.startswith(_OVERRIDE):
      rest.append(argument)
    elif not equals:
      raise errors.UserError(f'{argument}: must be {argument}=VALUE.')
    else:
      overrides[name] = value
  return overrides, rest


def complete(config: ConfigDict, overrides: Mapping[str, str]) -> ConfigDict:
  """Returns a config with overrides set, checked.

  Raises:
    UserError: see `override` and `validate`.
  """
  overrides_lib.override(config, overrides)
  checks.validate(config)
  return config


class Parser(argparse.ArgumentParser):
  """Leaves with our exit code, in one line, and takes no abbreviations."""

  def __init__(self, prog: str, description: str):
    super().__init__(prog=prog, description=description, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    self.exit(errors.USAGE, f'{self.prog}: {message}\n')


def run(
  parser: Parser,
  body: Callable[[argparse.Namespace, ConfigDict | None], None],
  arguments: Sequence[str] | None,
) -> int:
  """Runs a command with a flag `--config` and returns its exit code.

  Args:
    parser: the parser of its flags.
    body: called with the flags and the config, None without `--config`.
    arguments: the arguments of the command line; None for those of the process.
  """
  flags, rest = parser.parse_known_args(arguments)
  try:
    overrides, unknown = split(rest)
    if unknown:
      parser.error(f'unknown argument {unknown[0]!r}')
    config = flags.config and complete(files.load(flags.config), overrides)
    body(flags, config or None)
  except errors.UserError as error:
    sys.stderr.write(f'error: {error}\n')
    return error.code
  return errors.OK


def path(text: str) -> str:
  """The `type` of a flag that takes paths, which commas separate."""
  try:
    return ','.join(map(paths.expand, text.split(',')))
  except errors.UserError as error:
    raise argparse.ArgumentTypeError(str(error)) from error


def above_zero(kind: type) -> Callable[[str], Any]:
  """Returns the `type` of a flag that takes numbers above 0."""

  def number(text: str) -> Any:
    if kind(text) <= 0:
      raise argparse.ArgumentTypeError('must be above 0')
    return kind(text)

  return number
