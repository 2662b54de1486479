"""The parser of this room's commands."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from pyramid_jax import errors


class Parser(argparse.ArgumentParser):
  """Leaves with our exit code, in one line, and takes no abbreviations."""

  def __init__(self, prog: str, description: str):
    super().__init__(prog=prog, description=description, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    self.exit(errors.USAGE, f'{self.prog}: {message}\n')


def overrides(
  parser: argparse.ArgumentParser, rest: Sequence[str]
) -> dict[str, str]:
  """Returns {'data.root': 'DIR'} of `--config.data.root=DIR` and the like.

  An argument of another kind ends the program with an error of the parser.
  """
  values = {}
  for argument in rest:
    name, equals, value = argument.removeprefix('--config.').partition('=')
    if not argument.startswith('--config.') or not equals:
      parser.error(f'unknown argument {argument!r}')
    values[name] = value
  return values
