"""The sums in `config.json`: of itself, and of files that belong to it.

The section `sha256` maps names of files to their SHA-256. That of `config.json`
is of its values but for that sum itself, so that its layout does not matter. A
file without the section is taken as it is.
"""

from collections.abc import Mapping
import os
from typing import Any

from pyramid_jax.files import digests
from pyramid_jax.files import json_text
from pyramid_jax.files import seals


SECTION = 'sha256'
CONFIG = 'config.json'
_HINT = (
  'was changed since the run wrote it; give changed fields on the command line,'
  f' such as --config.sample.steps=50 (or take out its section {SECTION} to use'
  ' it as it is)'
)


class ChangedError(ValueError):
  """A `config.json` that is not what was written."""


def add(values: Mapping[str, Any], others: Mapping[str, str]) -> dict[str, Any]:
  """Returns the values of a config with the section; `others` are its sums."""
  whole = {**values, SECTION: dict(others)}
  own = seals.digest(whole)
  return {**whole, SECTION: {**others, CONFIG: own}}


def take(values: Mapping[str, Any], what: str = '') -> dict[str, Any]:
  """Returns the values of a config without the section, which is checked.

  Raises:
    ChangedError: the values are not those that the sum is of.
  """
  rest = {name: x for name, x in values.items() if name != SECTION}
  found = values.get(SECTION, {})
  is_intact = isinstance(found, dict)
  if is_intact and CONFIG in found:
    others = {name: x for name, x in found.items() if name != CONFIG}
    is_intact = seals.digest({**rest, SECTION: others}) == found[CONFIG]
  if not is_intact:
    raise ChangedError(f'{what or CONFIG} {_HINT}')
  return rest


def without(text: str | bytes) -> dict[str, Any]:
  """Returns the values of a text without the section, whatever it says.

  Raises:
    ValueError: the text is not a JSON object.
  """
  values = json_text.loads(text)
  if not isinstance(values, dict):
    raise ValueError('not an object')
  values.pop(SECTION, None)
  return values


def of_others(path: str | os.PathLike[str]) -> dict[str, str]:
  """Returns the sums of other files in a `config.json`.

  {} of one that is not there, has none, or is damaged, which shows when the
  config is read.
  """
  try:
    values = json_text.read(path)
    if not isinstance(values, dict):
      return {}
    take(values)
  except (FileNotFoundError, ValueError):
    return {}
  return values.get(SECTION, {})


def check(file: str | os.PathLike[str]) -> None:
  """Compares a file with its sum in the `config.json` beside it, if any.

  Raises:
    ChangedError: the file is not what was written.
    OSError: it cannot be read.
  """
  folder, name = os.path.split(file)
  want = of_others(os.path.join(folder, CONFIG)).get(name)
  if want is not None and of(file) != want:
    raise ChangedError(
      f'{os.fspath(file)} was changed since it was written: its SHA-256 is not'
      f' that in {CONFIG}'
    )


def of(file: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file."""
  return digests.sha256(file)
