"""The one reader of JSON that somebody else may have written.

What the parser of Python takes in addition to JSON, or at the cost of much time
or memory, is refused as what is no JSON is: with a ValueError of one line that
names the file and, where there is one, the position.
"""

import collections
import json
import math
import os
import re
from typing import Any
from typing import NoReturn

from pyramid_jax import limits
from pyramid_jax.files import bounded


_TOO_DEEP = f'nested more than {limits.JSON_DEPTH} deep'
# Half of a pair of UTF-16, unless a backslash stands before it.
_HALF = re.compile(
  r'\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])'
  r'|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]'
)


def read(
  path: str | os.PathLike[str],
  *,
  most: int = limits.JSON_BYTES,
  strict: bool = True,
) -> Any:
  """Returns the value of a file; see `loads`.

  Raises:
    ValueError: the file is no regular one, too large, or not JSON.
    OSError: it cannot be opened or read.
  """
  name = os.fsdecode(path)
  try:
    data = bounded.read(path, most)
  except ValueError as error:
    raise ValueError(f'{name}: {error}') from None
  return loads(data, name, most=most, strict=strict)


def loads(
  data: str | bytes,
  what: str = '',
  *,
  most: int = limits.JSON_BYTES,
  strict: bool = True,
) -> Any:
  """Returns the value of a text of JSON.

  Args:
    data: the text, or its bytes in UTF-8, with a byte order mark or without.
    what: what the errors call it, such as a path; '' if the caller does.
    most: the largest number of bytes, or of characters.
    strict: whether to refuse NaN, infinite numbers, and objects that have a
      name twice, and integers of more than `limits.JSON_DIGITS`. Otherwise
      such integers are floats, and of a name the last counts.

  Raises:
    ValueError: one line: not JSON, or beyond the limits of `limits`.
  """
  prefix = f'{what}: ' if what else ''
  try:
    return _loads(data, most, strict)
  except json.JSONDecodeError as error:
    problem = error.msg.removesuffix(' at')
    where = f'line {error.lineno}, column {error.colno}'
    raise ValueError(f'{prefix}not JSON: {problem} at {where}') from None
  except RecursionError:
    raise ValueError(f'{prefix}not JSON: {_TOO_DEEP}') from None
  except ValueError as error:
    raise ValueError(f'{prefix}not JSON: {error}') from None


def _loads(data: str | bytes, most: int, strict: bool) -> Any:
  if len(data) > most:
    raise ValueError(f'{len(data)} bytes, at most {most} are read')
  text = bounded.decoded(data) if isinstance(data, bytes) else data
  del data
  text = text.removeprefix('\ufeff')
  brackets = text.count('[') + text.count('{')
  if brackets > limits.JSON_BRACKETS:
    raise ValueError(
      f'{brackets} lists and objects, at most {limits.JSON_BRACKETS} are read'
    )

  def integer(digits: str) -> float:
    if len(digits) <= limits.JSON_DIGITS:
      return int(digits)
    if strict:
      raise json.JSONDecodeError(
        f'an integer of {len(digits)} digits, at most {limits.JSON_DIGITS} are'
        ' read',
        text,
        text.find(digits),
      )
    return float(digits)

  def refuse(name: str) -> NoReturn:
    raise json.JSONDecodeError(f'{name} is no number', text, text.find(name))

  value = json.loads(
    text,
    parse_int=integer,
    parse_constant=refuse if strict else None,
    object_pairs_hook=_object if strict else None,
  )
  if brackets > limits.JSON_DEPTH or strict:
    _check(value, strict)
  if (half := _HALF.search(text)) and not _is_unicode(value):
    raise json.JSONDecodeError('half of a character', text, half.start())
  return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns an object; a name that occurs twice is a ValueError."""
  found = dict(pairs)
  if len(found) < len(pairs):
    counts = collections.Counter(name for name, _ in pairs)
    twice, _ = counts.most_common(1)[0]
    raise ValueError(f'an object has {twice!r:.60} twice')
  return found


def _check(value: Any, strict: bool) -> None:
  """Raises a ValueError for nesting that is too deep, or numbers too large."""
  level, depth = [[value]], 0
  while level:
    if depth > limits.JSON_DEPTH:
      raise ValueError(_TOO_DEEP)
    below: list[Any] = []
    for item in level:
      values = item.values() if isinstance(item, dict) else item
      below += [x for x in values if isinstance(x, dict | list)]
      if strict and not all(
        math.isfinite(x) for x in values if type(x) is float
      ):
        raise ValueError('a number is too large')
    level, depth = below, depth + 1


def _is_unicode(value: Any) -> bool:
  try:
    json.dumps(value, ensure_ascii=False).encode()
  except UnicodeEncodeError:
    return False
  return True
