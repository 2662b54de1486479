"""Reading annotation files, with errors that name the entry."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import json
import math
import pathlib
from typing import Any
from typing import NoReturn

from pyramid_jax import errors


def is_number(value: Any) -> bool:
  """Whether a JSON value is a finite number."""
  return type(value) in (int, float) and math.isfinite(value)


def _is_bbox(value: Any) -> bool:
  if not isinstance(value, list) or len(value) != 4:
    return False
  return all(map(is_number, value)) and min(value[2:]) >= 0


# Kinds of fields, in words, and their tests.
INTEGER = 'an integer'
POSITIVE = 'a positive number'
TEXT = 'a string'
BBOX = '[x, y, width, height]'  # no side negative
_TESTS: Mapping[str, Callable[[Any], bool]] = {
  INTEGER: lambda value: type(value) is int,
  POSITIVE: lambda value: is_number(value) and value > 0,
  TEXT: lambda value: isinstance(value, str),
  BBOX: _is_bbox,
}


def fail(path: pathlib.Path, where: str, what: str) -> NoReturn:
  """Raises the error of a malformed entry."""
  raise errors.UserError(f'{path}: {where} {what}.', errors.DATA)


def load_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that is one JSON object, or raises a UserError."""
  try:
    document = json.loads(path.read_bytes())
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise errors.UserError(f'{path}: not JSON: {error}.', errors.DATA) from None
  if not isinstance(document, dict):
    fail(path, 'the file', f'must be an object, got {type(document).__name__}')
  return document


def entries(
  path: pathlib.Path,
  document: Mapping[str, Any],
  section: str,
  fields: Mapping[str, str],
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (position, entry) of a list of objects that have these fields.

  `section` is the key of the list in the document of the file, `fields` are
  kinds (`INTEGER` and so on) by the name of a field.

  Raises:
    UserError: the section or a field is missing or of another kind.
  """
  values = document.get(section)
  if not isinstance(values, list):
    fail(path, f'"{section}"', 'must be a list, it is missing or is not one')
  for i, entry in enumerate(values):
    where = f'{section}[{i}]'
    if not isinstance(entry, dict):
      fail(path, where, f'must be an object, got {entry!r:.60}')
    for name, kind in fields.items():
      if name not in entry:
        fail(path, where, f'lacks "{name}"')
      if not _TESTS[kind](entry[name]):
        fail(path, where, f'has "{name}": {entry[name]!r:.60}, must be {kind}')
    yield i, entry


def load_lines(path: pathlib.Path) -> list[tuple[int, str]]:
  """Reads (line number, text) of the lines that are not blank.

  Raises:
    UserError: the file is not UTF-8.
  """
  try:
    text = path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError:
    raise errors.UserError(f'{path}: not UTF-8 text.', errors.DATA) from None
  lines = enumerate(text.splitlines(), 1)
  return [(number, line.strip()) for number, line in lines if line.strip()]
