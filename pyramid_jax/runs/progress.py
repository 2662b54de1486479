"""How far a long loop is: one line on a terminal, plain lines elsewhere.

The line of a terminal renews itself; what is logged appears above it. Where
several processes run, a CI says so (`CI`), or the terminal is `dumb`, there are
plain lines, too.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import sys
import time
from typing import Any
from typing import TextIO

from absl import logging
import tqdm

from pyramid_jax.distributed import processes
from pyramid_jax.runs import status_line


_LINE = '{unit} {n}/{total}, {images_per_sec:.4g} images/s, {remaining} left'
_BAR = (
  '|{bar}| {unit} {n}/{total}{note}, {images_per_sec:.4g} images/s,'
  ' {remaining} left{memory}'
)
_BAR_SECS = 0.2  # between two states of the bar
_LINE_SECS = 10.0  # between two lines


class Progress(tqdm.tqdm):
  """A bar that shows images per second, and on a terminal what `note` gives.

  A loop iterates over it, or calls `update` after every step and `close` in the
  end; as a context it is closed by errors, too. Time spent in `pause`
  (evaluation, grids) does not count.
  """

  monitor_interval = 0  # no thread
  _paused = 0  # how many bars are

  def __init__(
    self,
    steps: range,
    images: int,
    unit: str = 'step',
    stream: TextIO | None = None,
    memory: Callable[[], str] | None = None,
  ):
    """Starts the clock.

    Args:
      steps: that are left, numbered from 0 over all.
      images: the images of a step.
      unit: the name of a step.
      stream: the stream of the bar, standard error by default.
      memory: returns the memory in use in a few words, '' where it is not
        known; a terminal shows it.
    """
    self._images, self._memory, self._note = images, memory, ''
    stream = sys.stderr if stream is None else stream
    terminal = _is_terminal(stream)
    self._is_shown = terminal
    super().__init__(
      steps,
      initial=steps.start,
      total=steps.stop,
      unit=unit,
      file=stream if terminal else _LogLines(),
      mininterval=_BAR_SECS if terminal else _LINE_SECS,
      miniters=1,
      position=0,
      disable=False,  # whatever the environment says: others read the speed
      dynamic_ncols=terminal,
      bar_format=_BAR if terminal else _LINE,
      leave=not (terminal and Progress._paused),
    )
    if terminal:
      status_line.show(self)
    self._time = time.monotonic  # that of tqdm follows the clock of the day
    self.start_t = self.last_print_t = self._time()

  @property
  def format_dict(self) -> dict[str, Any]:
    values = super().format_dict
    done = values['n'] - values['initial']
    rate = values['rate'] or done / max(values['elapsed'], 1e-9)
    values['images_per_sec'] = rate * self._images
    if self._is_shown:
      memory = self._memory() if self._memory else ''
      values['note'] = self._note and f', {self._note}'
      values['memory'] = memory and f', {memory}'
    return values

  def note(self, text: str) -> None:
    """Adds a few words, such as the loss, to the line of a terminal."""
    self._note = text

  def seconds(self) -> float:
    """Returns the working time since the start."""
    return self.format_dict['elapsed']

  def images_per_sec(self) -> float:
    """Returns the speed of late, a moving average."""
    return self.format_dict['images_per_sec']

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Stops the clock within the context, and clears the line of the bar.

    Bars of what is done meanwhile leave nothing on a terminal.
    """
    status_line.hide(self)
    self.clear()
    start = self._time()
    Progress._paused += 1
    try:
      yield
    finally:
      Progress._paused -= 1
      secs = self._time() - start
      self.start_t += secs
      self.last_print_t += secs
      if self._is_shown:
        status_line.show(self)

  def close(self) -> None:
    """Ends the line; may be called again."""
    status_line.hide(self)
    super().close()


def _is_terminal(stream: TextIO) -> bool:
  is_plain = os.environ.get('CI') or os.environ.get('TERM') == 'dumb'
  if is_plain or not stream.isatty():
    return False
  return not processes.is_one_of_many()


class _LogLines:
  """A stream that logs every state of a bar."""

  def write(self, text: str) -> None:
    if text.strip():
      logging.info('%s', text.strip())

  def flush(self) -> None:
    """Has nothing to do."""
