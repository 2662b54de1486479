"""Reading annotation files, with errors that name the entry."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import pathlib
import sys
from typing import Any
from typing import NoReturn

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.files import bounded
from pyramid_jax.files import json_text
from pyramid_jax.files import retries


def is_number(value: Any) -> bool:
  """Whether a JSON value is a finite number."""
  return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_bbox(value: Any) -> bool:
  if not isinstance(value, list) or len(value) != 4:
    return False
  return all(map(is_number, value)) and min(value[2:]) >= 0


# Kinds of fields, in words, and their tests.
INTEGER = 'an integer'
POSITIVE = 'a positive number'
TEXT = 'a string'
BBOX = '[x, y, width, height]'  # no side negative
NUMBER = 'a number'
LIST = 'a list'
OBJECT = 'an object'
_TESTS: Mapping[str, Callable[[Any], bool]] = {
  INTEGER: lambda value: type(value) is int and abs(value) < 1 << 63,
  POSITIVE: lambda value: is_number(value) and value > 0,
  TEXT: lambda value: isinstance(value, str),
  BBOX: _is_bbox,
  NUMBER: is_number,
  LIST: lambda value: isinstance(value, list),
  OBJECT: lambda value: isinstance(value, dict),
}


def fail(path: pathlib.Path, where: str, what: str) -> NoReturn:
  """Raises the error of a malformed entry."""
  raise errors.UserError(f'{path}: {where} {what}.', errors.DATA)


def load_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that is one JSON object, or raises a UserError."""
  try:
    document = json_text.read(path, most=limits.ANNOTATION_BYTES, strict=False)
  except ValueError as error:
    raise errors.UserError(f'{error}.', errors.DATA) from None
  if not isinstance(document, dict):
    fail(path, 'the file', f'must be an object, got {type(document).__name__}')
  return document


class Entries:
  """Entries of a file, without those that cannot be used.

  `checked` may be called for one list after the other; the places that messages
  name are then those within all of them.
  """

  def __init__(self, path: pathlib.Path, name: str, fields: Mapping[str, str]):
    """Takes the file, what its entries are, and the kinds of their fields.

    Args:
      path: the file, for messages.
      name: of the list of entries.
      fields: the kinds (`INTEGER` and so on) of fields by their name.
    """
    self._path = path
    self._name = name
    self._fields = fields
    self._count = 0
    self._left_out = 0
    self._first = ''  # where the first is that is left out, and why

  def checked(
    self, values: Iterable[Any]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (position, entry) of the objects that have their fields."""
    for entry in values:
      position = self._count
      self._count += 1
      fault = self._fault(entry)
      if fault:
        self.leave_out(position, fault)
      else:
        yield position, entry

  def _fault(self, entry: Any) -> str:
    if not isinstance(entry, dict):
      return f'must be an object, got {entry!r:.60}'
    for name, kind in self._fields.items():
      if name not in entry:
        return f'lacks "{name}"'
      if not _TESTS[kind](entry[name]):
        return f'has "{name}": {entry[name]!r:.60}, must be {kind}'
    return ''

  def leave_out(self, position: int, fault: str) -> None:
    """Counts an entry that is not used, and keeps the first fault."""
    self._left_out += 1
    self._first = self._first or f'{self._name}[{position}] {fault}'

  def check(self) -> list[str]:
    """Returns what is left out in a line for the log, or nothing.

    Raises:
      UserError: that is more than half of the entries.
    """
    if not self._left_out:
      return []
    line = (
      f'{self._path}: {self._left_out} of {self._count} {self._name} are'
      f' left out, the first: {self._first}'
    )
    if 2 * self._left_out > self._count:
      raise errors.UserError(f'{line}.', errors.DATA)
    return [line]


class Section(Entries):
  """A list of objects in a document, without those that cannot be used.

  Iterating yields (position, entry) of the objects that have their fields.
  """

  def __init__(
    self,
    path: pathlib.Path,
    document: Mapping[str, Any],
    name: str,
    fields: Mapping[str, str],
  ):
    """Finds the list `name` of a document, see `Entries`.

    Raises:
      UserError: there is no such list.
    """
    values = document.get(name)
    if not isinstance(values, list):
      fail(path, f'"{name}"', 'must be a list, it is missing or is not one')
    super().__init__(path, name, fields)
    self._values = values

  def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
    return self.checked(self._values)

  def whole(self) -> list[dict[str, Any]]:
    """Returns all entries; one that cannot be used is a UserError."""
    entries = [entry for _, entry in self]
    if self._left_out:
      raise errors.UserError(f'{self._path}: {self._first}.', errors.DATA)
    return entries


def load_lines(path: pathlib.Path) -> list[tuple[int, str]]:
  """Reads (line number, text) of the lines that are not blank.

  A line ends at a line feed, a carriage return or both, as in JSON lines, and
  not at the separators of Unicode, which a text may have.

  Raises:
    UserError: the file is not UTF-8, no file, or too large; or a line is.
  """
  most = limits.ANNOTATION_BYTES
  try:
    text = retries.repeat(lambda: bounded.text(path, most), path)
  except ValueError as error:
    raise errors.UserError(f'{path}: {error}.', errors.DATA) from None
  text = text.replace('\r\n', '\n').replace('\r', '\n')
  lines = []
  for number, line in enumerate(text.split('\n'), 1):
    if len(line) > limits.LINE_CHARACTERS:
      fail(
        path,
        f'line {number}',
        f'has {len(line)} characters, at most {limits.LINE_CHARACTERS} are'
        ' read',
      )
    if stripped := line.strip():
      lines.append((number, stripped))
  return lines
