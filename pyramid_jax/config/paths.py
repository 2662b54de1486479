"""Paths in configs and on command lines: `~`, and other working directories.

Names of files that are elsewhere, such as `hf://OWNER/NAME/FILE` or
`gs://BUCKET/NAME`, and names that are not those of a file here, are left as
they are.
"""

from collections.abc import Callable
import functools
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import names
from pyramid_jax.config import sections
from pyramid_jax.files import stores


_LONGEST = 255  # bytes of a name of a file or folder
_BELOW = 300  # bytes of a path that the files of a run need, at most


def expand(path: str, option: str = '') -> str:
  """Returns a path with the home folder in place of its `~` or `~USER`.

  Args:
    path: of a file or folder, which need not exist.
    option: what it was given for, such as '--workdir', for the message.

  Raises:
    UserError: there is no such user, the user has no home folder, or a name is
      longer than file systems allow.
  """
  given = f'{option}={path}' if option else path
  if '://' not in path and not all(map(_is_name, path.split('/'))):
    raise errors.UserError(
      f'{given}: no path; a name in it has at most {_LONGEST} bytes, and none'
      ' of them is 0.'
    )
  expanded = os.path.expanduser(path)
  if path.startswith('~') and expanded == path:
    user = path.partition('/')[0]
    raise errors.UserError(
      f'{given}: the home folder of {user} is not known; a file of this name'
      f' is ./{path}.'
    )
  return expanded


def _is_name(text: str) -> bool:
  """Whether a file can have a name."""
  try:
    name = os.fsencode(text)
  except UnicodeEncodeError:
    return False
  return len(name) <= _LONGEST and 0 not in name


def folder(path: str, option: str) -> stores.Path:
  """Returns a folder to write, or of a run, which need not exist.

  It may be one in a store, see `files.stores`.

  Args:
    path: see `expand`.
    option: what it was given for, such as '--workdir', for the message.

  Raises:
    UserError: see `expand`; or no system or library takes such a name; or a
      store does not answer.
  """
  expanded = expand(path, option)
  given = f'{option}={path}'
  if '://' in expanded:
    found = stores.path(expanded)
    stores.check(found)
    return found
  longest = os.pathconf('/', 'PC_PATH_MAX') - _BELOW
  try:
    if len(os.path.abspath(expanded).encode()) > longest:
      raise errors.UserError(f'{given}: longer than {longest} bytes.')
    os.lstat(expanded)
  except UnicodeEncodeError as error:
    raise errors.UserError(f'{given}: the name is not UTF-8.') from error
  except (FileNotFoundError, NotADirectoryError):
    pass  # whoever reads or writes it says so
  except OSError as error:
    text = f'{given}: {error.strerror}.'
    raise errors.UserError(text, errors.OUTPUT) from error
  return pathlib.Path(expanded)


def absolute(path: str) -> str:
  """Returns the absolute path of what exists, other texts as they are."""
  return os.path.abspath(path) if os.path.exists(path) else path


def is_same(path: Any, other: Any) -> bool:
  """Returns whether two values of a path field name one file or folder."""
  if not (isinstance(path, str) and isinstance(other, str)):
    return bool(path == other)
  if path == other or not (path and other) or '://' in path + other:
    return path == other
  return os.path.realpath(path) == os.path.realpath(other)


def expand_all(config: ConfigDict) -> None:
  """Expands `~` in all path fields of a config, in place, locked or not.

  Raises:
    UserError: see `expand`.
  """
  _change(config, lambda name, path: expand(path, f'--config.{name}'))


def make_absolute(config: ConfigDict) -> ConfigDict:
  """Returns a config whose path fields serve in any working directory.

  Those that name what exists become absolute.
  """
  config = config.copy_and_resolve_references()
  _change(config, lambda _, path: absolute(path))
  return config


def _change(config: ConfigDict, change: Callable[[str, str], str]) -> None:
  """Sets each path of a config to what `change` makes of its name and it."""
  values = names.flatten(config)
  for name, value in values.items():
    field = sections.find(values, name)
    if field is None or not field.path or not value:
      continue
    *parents, last = name.split('.')
    section = functools.reduce(ConfigDict.__getitem__, parents, config)
    if isinstance(value, tuple):
      section[last] = tuple(
        change(name, path) if isinstance(path, str) else path for path in value
      )
    elif isinstance(value, str):
      section[last] = change(name, value)
