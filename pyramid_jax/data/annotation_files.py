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


def is_int(value: Any) -> bool:
  """Whether a JSON value is an integer."""
  return type(value) is int


def is_number(value: Any) -> bool:
  """Whether a JSON value is a finite number."""
  return type(value) in (int, float) and math.isfinite(value)


def is_positive(value: Any) -> bool:
  """Whether a JSON value is a finite number above zero."""
  return is_number(value) and value > 0


def is_text(value: Any) -> bool:
  """Whether a JSON value is a string."""
  return isinstance(value, str)


def is_bbox(value: Any) -> bool:
  """Whether a JSON value is [x, y, width, height], no side negative."""
  return (
    isinstance(value, list)
    and len(value) == 4
    and all(map(is_number, value))
    and min(value[2:]) >= 0
  )


# What the fields of `entries` must be, in words.
MEANING: Mapping[Callable[[Any], bool], str] = {
  is_int: 'an integer',
  is_number: 'a number',
  is_positive: 'a positive number',
  is_text: 'a string',
  is_bbox: '[x, y, width, height]',
}


def fail(path: pathlib.Path, where: str, what: str) -> NoReturn:
  """Raises the error of a malformed entry."""
  raise errors.UserError(f'{path}: {where} {what}.', errors.DATA)


def load_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that is one JSON object.

  Raises:
    UserError: it is not.
    FileNotFoundError: there is none.
  """
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
  fields: Mapping[str, Callable[[Any], bool]],
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (position, entry) of a list of objects that have these fields.

  Args:
    path: for error messages.
    document: of `load_json`.
    section: the key of the list.
    fields: tests of this module by the name of a field.

  Raises:
    UserError: the section or a field is missing or of another type; the
      message has the file, the position and the field.
  """
  values = document.get(section)
  if not isinstance(values, list):
    fail(path, f'"{section}"', 'must be a list, it is missing or is not one')
  for i, entry in enumerate(values):
    if not isinstance(entry, dict):
      fail(path, f'{section}[{i}]', f'must be an object, got {entry!r:.60}')
    for name, test in fields.items():
      if name not in entry:
        fail(path, f'{section}[{i}]', f'lacks "{name}"')
      if not test(entry[name]):
        fail(
          path,
          f'{section}[{i}]',
          f'has "{name}": {entry[name]!r:.60}, must be {MEANING[test]}',
        )
    yield i, entry


def load_lines(path: pathlib.Path) -> list[tuple[int, str]]:
  """Reads (line number, text) of the lines that are not blank.

  Raises:
    UserError: the file is not UTF-8.
    FileNotFoundError: there is none.
  """
  try:
    text = path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError:
    raise errors.UserError(f'{path}: not UTF-8 text.', errors.DATA) from None
  lines = enumerate(text.splitlines(), 1)
  return [(number, line.strip()) for number, line in lines if line.strip()]
