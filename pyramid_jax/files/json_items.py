"""The objects of a JSON list that is too large to be read at once."""

import codecs
from collections.abc import Iterator
import json
import os
from typing import Any

from pyramid_jax import limits
from pyramid_jax.files import bounded
from pyramid_jax.files import retries


_BLOCK_BYTES = 1 << 20
_SPACE = ' \t\r\n'
_TOKEN = 16  # characters of the longest token that is no string, at least


def read(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
  """Yields the objects of a file that is one list of them.

  Memory holds one object and a block of the file. Of a name that an object has
  twice the last counts.

  Raises:
    ValueError: one line that names the file: no such list, an object of more
      than `limits.JSON_BYTES` characters, or no regular file.
    OSError: it cannot be opened or read.
  """
  count = 0
  try:
    for value in _objects(_Text(_blocks(path))):
      yield value
      count += 1
  except RecursionError:
    where = f'{os.fsdecode(path)}: entry {count}'
    raise ValueError(f'{where}: not JSON: nested too deep') from None
  except ValueError as error:
    where = f'{os.fsdecode(path)}: entry {count}'
    raise ValueError(f'{where}: {error}') from None


def _blocks(path: str | os.PathLike[str]) -> Iterator[str]:
  """Yields a file of UTF-8 in parts that are not empty."""
  decoder = codecs.getincrementaldecoder('utf-8-sig')()
  with bounded.opened(path, limits.FILE_BYTES) as file:
    is_last = False
    while not is_last:
      data = retries.repeat(lambda: file.read(_BLOCK_BYTES), path)
      is_last = not data
      if text := decoder.decode(data, final=is_last):
        yield text


class _Text:
  """A text that comes in blocks, of which what is used up is dropped."""

  def __init__(self, blocks: Iterator[str]):
    self._blocks = blocks
    self._text = ''
    self._place = 0
    self._decode = json.JSONDecoder().raw_decode

  def mark(self) -> str:
    """Returns the next character that is no space, '' at the end."""
    while True:
      while self._place < len(self._text):
        if (found := self._text[self._place]) not in _SPACE:
          return found
        self._place += 1
      if not self._more(1):
        return ''

  def skip(self) -> None:
    """Moves on by a character."""
    self._place += 1

  def value(self) -> dict[str, Any]:
    """Returns the object that begins here, and moves behind it."""
    while True:
      try:
        value, self._place = self._decode(self._text, self._place)
        return value
      except json.JSONDecodeError as error:
        is_cut = error.pos > len(self._text) - _TOKEN
        is_cut = is_cut or error.msg.startswith('Unterminated')
        size = len(self._text) - self._place
        if size > limits.JSON_BYTES:
          raise ValueError(
            f'has more than {limits.JSON_BYTES} characters'
          ) from None
        # Twice as much each time, so that a long object is tried a few times.
        if not is_cut or not self._more(size):
          raise ValueError(f'not JSON: {error.msg}') from None

  def _more(self, least: int) -> bool:
    """Reads about `least` characters more; whether there were any."""
    parts, count = [self._text[self._place :]], 0
    while count < least and (block := next(self._blocks, '')):
      parts.append(block)
      count += len(block)
    self._text, self._place = ''.join(parts), 0
    return count > 0


def _objects(text: _Text) -> Iterator[dict[str, Any]]:
  """Yields the objects of a list."""
  before = '['
  while True:
    if (found := text.mark()) != before:
      if found == ']' and before == ',':
        break
      raise ValueError(f'expected {before} of a JSON list, got {found!r}')
    text.skip()
    found = text.mark()
    if found == ']' and before == '[':
      break
    if found != '{':
      raise ValueError(f'must be an object, it begins with {found!r}')
    yield text.value()
    before = ','
  text.skip()
  if text.mark():
    raise ValueError('something stands after the list')
