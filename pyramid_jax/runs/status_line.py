"""The line of a terminal that renews itself, and the lines above it.

Only the last of the lines that are open is shown. What is logged meanwhile
appears above it, whole.
"""

from contextlib import AbstractContextManager
from typing import Any
from typing import Protocol
from typing import TextIO


class Line(Protocol):
  """A line at the end of a stream."""

  fp: Any  # the stream

  @classmethod
  def get_lock(cls) -> AbstractContextManager[Any]:
    """Returns the lock of everything that writes such lines."""

  def clear(self, nolock: bool = False) -> None:
    """Removes it."""

  def refresh(self, nolock: bool = False) -> Any:
    """Writes it again."""


_lines: list[Line] = []  # a thread may log while another one adds


def show(line: Line) -> None:
  """Shows a line until `hide`, in the place of those before."""
  hide(line)
  _lines.append(line)


def hide(line: Line) -> None:
  """Shows a line no more, which may have been shown or not."""
  # By identity: bars of tqdm are equal where their places are.
  _lines[:] = [other for other in _lines if other is not line]


class Above:
  """A stream that writes above the line that is shown on another stream."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def write(self, text: str) -> int:
    """Writes a text that ends its line."""
    line = _lines[-1] if _lines else None
    if line is None or not self._stream.isatty():
      return self._stream.write(text)
    with line.get_lock():
      line.clear(nolock=True)
      count = self._stream.write(text)
      self._stream.flush()
      line.refresh(nolock=True)
    return count

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)
