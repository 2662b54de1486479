"""How far a long loop is: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
import contextlib
import sys
import time
from typing import Any
from typing import TextIO

from absl import logging
import tqdm


_LINE = '{unit} {n}/{total}, {images_per_sec:.4g} images/s, {remaining} left'
_BAR_SECS = 0.2  # between two states of the bar
_LINE_SECS = 10.0  # between two lines


class Progress(tqdm.tqdm):
  """A bar that shows images per second.

  A loop iterates over it, or calls `update` after every step and `close` in the
  end. Time spent in `pause` (evaluation, grids) does not count.
  """

  monitor_interval = 0  # no thread

  def __init__(
    self,
    steps: range,
    images: int,
    unit: str = 'step',
    stream: TextIO | None = None,
  ):
    """Starts the clock.

    Args:
      steps: that are left, numbered from 0 over all.
      images: the images of a step.
      unit: the name of a step.
      stream: the stream of the bar, standard error by default.
    """
    self._images = images
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
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
      bar_format=f'|{{bar}}| {_LINE}' if terminal else _LINE,
    )
    self._time = time.monotonic  # that of tqdm follows the clock of the day
    self.start_t = self.last_print_t = self._time()

  @property
  def format_dict(self) -> dict[str, Any]:
    values = super().format_dict
    done = values['n'] - values['initial']
    rate = values['rate'] or done / max(values['elapsed'], 1e-9)
    return {**values, 'images_per_sec': rate * self._images}

  def seconds(self) -> float:
    """Returns the working time since the start."""
    return self.format_dict['elapsed']

  def images_per_sec(self) -> float:
    """Returns the speed of late, a moving average."""
    return self.format_dict['images_per_sec']

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Stops the clock within the context, and clears the line of the bar."""
    self.clear()
    start = self._time()
    try:
      yield
    finally:
      secs = self._time() - start
      self.start_t += secs
      self.last_print_t += secs


class _LogLines:
  """A stream that logs every state of a bar."""

  def write(self, text: str) -> None:
    if text.strip():
      logging.info('%s', text.strip())

  def flush(self) -> None:
    """Has nothing to do."""
