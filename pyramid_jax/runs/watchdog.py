"""Ends a process that waits for something that does not come.

A command says what it does (`watched`), what it waits for (`doing`) and when
it got somewhere (`beat`). A thread counts the time between, in short ticks of
its own: a process that was stopped, or a computer that slept, has not waited.
Where it becomes too long, the stacks of all threads are written to stderr and
to the log, and the process ends with one line and RESTART: a launcher starts
it again, and it goes on from its last checkpoint. In a process that is another
program's the stacks are logged once and it goes on waiting.
"""

from collections import deque
from collections.abc import Iterator
import contextlib
import os
import statistics
import sys
import threading
import time
import types

from absl import logging
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.runs import leaving
from pyramid_jax.runs import stopping


TICK_SECS = 0.25
TIMES = 10  # the median of the latest beats
_LATEST = 101

Limit = tuple[float, str]  # seconds, 0 for any time; the field that says so


class Watch:
  """What a command does, and for how long.

  Attributes:
    what: what it waits for, for messages.
  """

  def __init__(self, what: str, limit: Limit, first: Limit):
    self.what = what
    self._limit = limit
    self._first = first
    self._spent = 0.0
    self._beats: deque[float] = deque(maxlen=_LATEST)

  def beat(self) -> None:
    """Says that it got somewhere; the clock starts anew."""
    self._beats.append(self._spent)
    self._spent = 0.0

  def add(self, secs: float) -> str:
    """Adds time; returns why it was too long, '' where it was not."""
    self._spent += secs
    limit, field = self._limit if self._beats else self._first
    if self._beats and limit:
      limit = max(limit, TIMES * statistics.median(tuple(self._beats)))
    if not limit or self._spent < limit:
      return ''
    return (
      f'nothing from {self.what} for {self._spent:.1f} s; {field} allows'
      f' {limit:.1f} s. The stacks of all threads are in the log; the same'
      ' command goes on.'
    )


_watches: list[Watch] = []  # the innermost one counts
_thread: threading.Thread | None = None


@contextlib.contextmanager
def watched(
  what: str, limit: Limit, first: Limit | None = None
) -> Iterator[Watch]:
  """Watches the work in the context; one around it stands still meanwhile.

  Args:
    what: what is waited for, to follow 'nothing from'.
    limit: between two beats; ten times their median is always allowed.
    first: until the first beat, `limit` by default.
  """
  global _thread
  watch = Watch(what, limit, limit if first is None else first)
  _watches.append(watch)
  if _thread is None or not _thread.is_alive():
    _thread = threading.Thread(target=_run, name='watchdog', daemon=True)
    _thread.start()
  try:
    yield watch
  finally:
    _watches.remove(watch)


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
  """Names what is waited for in the context, on the same clock."""
  if not _watches:
    yield
    return
  watch = _watches[-1]
  before, watch.what = watch.what, what
  try:
    yield
  finally:
    watch.what = before


def limit_of(config: ConfigDict, name: str) -> Limit:
  """Returns the limit that a field sets, such as 'train.step_limit_secs'."""
  section, _, field = name.partition('.')
  return float(config[section][field]), f'config.{name}'


def of_batches(
  what: str, config: ConfigDict
) -> contextlib.AbstractContextManager[Watch]:
  """Returns the watch of batches of images, see `watched`."""
  return watched(what, limit_of(config, 'sample.batch_limit_secs'))


def beat() -> None:
  """Says that the work got somewhere, from any thread."""
  for watch in _watches[-1:]:
    watch.beat()


def stacks() -> str:
  """Returns the stacks of all threads, as lines; it reads no files."""
  names = {thread.ident: thread.name for thread in threading.enumerate()}
  lines = []
  for ident, top in sys._current_frames().items():
    lines.append(f'Thread {names.get(ident, ident)}:')
    frame: types.FrameType | None = top
    while frame is not None:
      code = frame.f_code
      place = f'File "{code.co_filename}", line {frame.f_lineno}'
      lines.append(f'  {place} in {code.co_qualname}')
      frame = frame.f_back
  return '\n'.join(lines) + '\n'


def _run() -> None:
  warned: Watch | None = None
  last = time.monotonic()
  while True:
    time.sleep(TICK_SECS)
    now = time.monotonic()
    secs, last = min(now - last, 2 * TICK_SECS), now
    watch = _watches[-1] if _watches else None
    problem = watch.add(secs) if watch else ''
    if not problem:
      continue
    if stopping.is_own():
      with leaving.LAST_WORD:
        if not stopping.is_over():
          leaving.at_once(errors.RESTART, problem, stacks())
    elif watch is not warned:
      warned = watch
      logging.error(f'{problem}\n{stacks()}')


def _forget() -> None:
  """Leaves the watches to the parent of a process that was forked."""
  global _thread
  _watches.clear()
  _thread = None


if hasattr(os, 'register_at_fork'):
  os.register_at_fork(after_in_child=_forget)
