"""SIGTERM and SIGINT finish the step, save, and exit with RESTART."""

import os
import signal
import threading
import types
from typing import Any

from absl import logging

from pyramid_jax import errors


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
  """Listens while the context lasts.

  The first signal sets `requested`, which a loop reads after every step. Before
  `graceful` is set there is no step to finish, and the signal raises. A second
  SIGINT ends the process at once; checkpoints are atomic.
  """

  def __init__(self) -> None:
    self.requested = False
    self.graceful = False
    self._before: dict[signal.Signals, Any] = {}

  def __enter__(self) -> 'Preemption':
    # Python lets the main thread alone set handlers.
    if threading.current_thread() is threading.main_thread():
      self._before = {s: signal.signal(s, self._handle) for s in _SIGNALS}
    return self

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    name = signal.Signals(number).name
    if self.requested and number == signal.SIGINT:
      logging.warning('%s again: stopping without a checkpoint', name)
      os._exit(errors.RESTART)
    self.requested = True
    if not self.graceful:
      raise errors.UserError(f'stopped by {name}.', errors.RESTART)
    logging.warning('%s: finishing the step and saving', name)

  def __exit__(self, *error: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
