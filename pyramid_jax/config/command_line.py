"""What all command lines share: `--config.FIELD=VALUE`, errors, exit codes."""

import argparse
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import re
import sys
import traceback
from typing import Any
from typing import NoReturn

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import checks
from pyramid_jax.config import files
from pyramid_jax.config import names
from pyramid_jax.config import overrides as overrides_lib
from pyramid_jax.config import paths
from pyramid_jax.files import stores


# {'train.steps': '1000', ...}; None for a name without a value.
Overrides = dict[str, str | None]

_OVERRIDE = '--config.'
_FLAG = re.compile(r'--[A-Za-z]')


def split(arguments: Sequence[str]) -> tuple[Overrides, list[str]]:
  """Takes the overrides of the config out of a command line.

  The value of an override follows '=' or is the next argument, unless that is
  another flag: `--config.train.steps=1000`, `--config.train.steps 1000`.

  Returns:
    The overrides, and the other arguments.
  """
  overrides: Overrides = {}
  rest: list[str] = []
  left = list(arguments)
  while left:
    argument = left.pop(0)
    name, equals, value = argument.removeprefix(_OVERRIDE).partition('=')
    if not argument.startswith(_OVERRIDE):
      rest.append(argument)
    elif equals:
      overrides[name] = value
    elif left and not _FLAG.match(left[0]):
      overrides[name] = left.pop(0)
    else:
      overrides[name] = None
  return overrides, rest


def complete(
  config: ConfigDict, overrides: Mapping[str, str | None]
) -> ConfigDict:
  """Returns a config with overrides set, checked.

  Raises:
    UserError: see `override` and `validate`.
  """
  overrides_lib.override(config, overrides)
  checks.validate(config)
  return config


class Parser(argparse.ArgumentParser):
  """Refuses with a `UserError`, and takes no abbreviations."""

  def __init__(self, prog: str, description: str, **options: Any):
    super().__init__(
      prog=prog,
      description=description,
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      **options,
    )

  def error(self, message: str) -> NoReturn:
    """Raises a UserError; argparse calls it."""
    raise errors.UserError(message.removeprefix('argument '))

  def parse(
    self,
    arguments: Sequence[str] | None,
    may_be_empty: Collection[str] = (),
  ) -> tuple[argparse.Namespace, Overrides]:
    """Returns the flags and the overrides of the config.

    Args:
      arguments: those of the command line; None for those of the process.
      may_be_empty: the flags for which an empty value means something.

    Raises:
      UserError: an unknown flag, or a value that it does not take.
    """
    given = sys.argv[1:] if arguments is None else arguments
    overrides, rest = split(given)
    flags, unknown = self.parse_known_args(rest)
    if unknown:
      known = [x for x in self._option_string_actions if x.startswith('--')]
      raise errors.UserError(_unknown(unknown[0], known))
    for name, value in vars(flags).items():
      may_be = name in may_be_empty or self.get_default(name) == ''
      if value == '' and not may_be:
        raise errors.UserError(
          f'--{name}= is empty, give a value or leave it out.'
        )
    return flags, overrides


class WritingParser(Parser):
  """The parser of a program that makes a folder of what a config describes.

  It has the flags `--config` and `--output`.
  """

  def __init__(self, prog: str, description: str):
    super().__init__(prog, description)
    config = 'FILE.py[:variant,...]'
    self.add_argument('--config', required=True, type=path, help=config)
    output = folder('--output')
    self.add_argument('--output', required=True, type=output, help='to write')


def _unknown(argument: str, known: Iterable[str]) -> str:
  """Returns the message about an argument that is not known."""
  flag = argument.partition('=')[0]
  if flag.startswith('-'):
    return f'there is no flag {flag}{names.nearest(flag, known)}'
  return f'unknown argument {argument!r}, see --help.'


def _named(flags: argparse.Namespace) -> ConfigDict | None:
  """Returns the config of the flag `--config`, None without it."""
  name = getattr(flags, 'config', None)
  return files.load(name) if name else None


def run(
  parser: Parser,
  body: Callable[[argparse.Namespace, ConfigDict | None], None],
  arguments: Sequence[str] | None,
  make: Callable[[argparse.Namespace], ConfigDict | None] = _named,
) -> int:
  """Runs a command that may have a flag `--config`; returns its exit code.

  Args:
    parser: the parser of its flags.
    body: called with the flags and the config, None without one.
    arguments: the arguments of the command line; None for those of the process.
    make: flags -> the config that overrides are for, None without one; that of
      the flag `--config`, unless other flags make one.
  """

  def command() -> None:
    flags, overrides = parser.parse(arguments)
    config = make(flags)
    if overrides and config is None:
      raise errors.UserError(
        f'--config.{next(iter(overrides))} needs --config=FILE.py[:variant].'
      )
    body(flags, None if config is None else complete(config, overrides))

  return exit_code(command)


def exit_code(command: Callable[[], int | None]) -> int:
  """Returns the exit code of a command; its errors are written to stderr.

  A UserError is one line, any other exception keeps its traceback.
  """
  try:
    code = command() or errors.OK
    with errors.writing('the standard output', folder='/'):
      sys.stdout.flush()
    return code
  except errors.UserError as error:
    with contextlib.suppress(OSError):  # the log, on a disk that is full
      sys.stderr.write(f'error: {error}\n')
    return error.code
  except Exception:
    traceback.print_exc()
    return errors.BUG


def path(text: str) -> str:
  """The `type` of a flag that takes paths, which commas separate."""
  try:
    return ','.join(map(paths.expand, text.split(',')))
  except errors.UserError as error:
    raise argparse.ArgumentTypeError(str(error)) from error


def folder(option: str) -> Callable[[str], stores.Path]:
  """Returns the `type` of a flag that takes a folder to write, or of a run."""

  def known(text: str) -> stores.Path:
    return paths.folder(text, option)

  return known


def at_least(low: int) -> Callable[[str], int]:
  """Returns the `type` of a flag that takes whole numbers from `low` on."""

  def integer(text: str) -> int:
    if int(text) < low:
      raise argparse.ArgumentTypeError(f'is {text}, must be at least {low}')
    return int(text)

  return integer


def above_zero(kind: type) -> Callable[[str], Any]:
  """Returns the `type` of a flag that takes numbers above 0."""

  def number(text: str) -> Any:
    if not 0 < kind(text) < float('inf'):
      raise argparse.ArgumentTypeError(f'is {text}, must be above 0')
    return kind(text)

  number.__name__ = kind.__name__  # argparse says 'invalid int value'
  return number
