"""The parser of this room's commands."""

import argparse
from typing import NoReturn

from pyramid_jax import errors


class Parser(argparse.ArgumentParser):
  """Leaves with our exit code, in one line, and takes no abbreviations."""

  def __init__(self, prog: str, description: str):
    super().__init__(prog=prog, description=description, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    self.exit(errors.USAGE, f'{self.prog}: {message}\n')
