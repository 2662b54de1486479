"""How far a long loop is: a bar on a terminal, plain lines elsewhere."""

from collections import deque
from collections.abc import Iterator
import contextlib
import sys
import time
from typing import TextIO

from absl import logging


_BAR = 24  # characters
_BAR_SECS = 0.2  # between two states of the bar
_LINE_SECS = 10.0  # between two lines
_WINDOW_SECS = 20.0  # over which the speed is averaged


class Progress:
  """Counts steps and tells their speed and the time that is left.

  Time spent in `pause` (evaluation, grids) does not count.
  """

  def __init__(
    self,
    first: int,
    last: int,
    images: int,
    stream: TextIO | None = None,
    unit: str = 'step',
  ):
    """Starts the clock.

    Args:
      first: steps that are done already.
      last: steps when all is done.
      images: of a step.
      stream: of the bar, standard error by default.
      unit: what is counted.
    """
    self._last = last
    self._images = images
    self._unit = unit
    self._stream = sys.stderr if stream is None else stream
    self._terminal = self._stream.isatty()
    self._paused = 0.0
    self._start = time.monotonic()
    self._shown = self._start - _LINE_SECS
    self._marks = deque([(0.0, first)])  # (working seconds, step)

  def seconds(self) -> float:
    """Returns the working time since the start."""
    return time.monotonic() - self._start - self._paused

  def images_per_sec(self) -> float:
    """Returns the speed of the last seconds, 0 when it is not known."""
    (start, first), (end, last) = self._marks[0], self._marks[-1]
    return (last - first) * self._images / max(end - start, 1e-9)

  def update(self, step: int, text: str = '') -> None:
    """Tells that `step` is done; `text` is shown behind the bar."""
    now = self.seconds()
    self._marks.append((now, step))
    while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW_SECS:
      self._marks.popleft()
    every = _BAR_SECS if self._terminal else _LINE_SECS
    if time.monotonic() - self._shown < every and step < self._last:
      return
    self._shown = time.monotonic()
    line = f'{self._unit} {step}/{self._last}, {self._speed(step)}'
    line = f'{line}, {text}' if text else line
    if not self._terminal:
      logging.info('%s', line)
      return
    full = _BAR * step // max(self._last, 1)
    bar = '#' * full + '-' * (_BAR - full)
    end = '\n' if step >= self._last else ''
    self._stream.write(f'\r[{bar}] {line}\x1b[K{end}')
    self._stream.flush()

  def _speed(self, step: int) -> str:
    speed = self.images_per_sec()
    if not speed:
      return 'speed unknown'
    left = (self._last - step) * self._images / speed
    return f'{speed:.4g} images/s, {duration(left)} left'

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Takes what is done inside out of the speed, and off the bar's line."""
    if self._terminal:
      self._stream.write('\r\x1b[K')
      self._stream.flush()
    start = time.monotonic()
    try:
      yield
    finally:
      self._paused += time.monotonic() - start


def duration(secs: float) -> str:
  """Returns '1:02:03' or '2:03'."""
  minutes, seconds = divmod(round(secs), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minutes:02d}:{seconds:02d}'
  return f'{minutes}:{seconds:02d}'
