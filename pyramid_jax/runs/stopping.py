"""How a command is stopped: a signal sets one flag, and the work looks at it.

A handler only notes that a signal came; nothing is raised inside of it. The
work calls `check` between its phases and `wait` where it waits, and ends by
`Stopped`: one line, exit code RESTART. So nothing is half done, and nothing
takes the signal for damage.

The process of a command line calls `install` before it imports anything slow.
A thread then answers where the main thread does not look: at once before the
work began, else after `ANSWER_SECS`, or after the grace of a training run,
which finishes its step and saves it. A second SIGINT ends it at once. Functions
that are called in another program (`listening`) never end that program.

SIGHUP, the end of a terminal, is as SIGTERM, unless it is ignored (`nohup`).

A signal to one of several processes of a training run (`agreeing`) is one to
all. In what is finished first they do not look at the flag, but at each `point`
that all of them pass: they stop at the same one, see `distributed.agreement`.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import math
import os
import signal
import socket
import threading
import time
from typing import Any
from typing import TypeVar
from typing import overload

from pyramid_jax import errors
from pyramid_jax.distributed import agreement
from pyramid_jax.runs import leaving


ANSWER_SECS = 3.0
GRACE_SECS = 25.0  # launchers send SIGKILL 30 s after SIGTERM
_POLL_SECS = 0.05
# Launchers may send a signal to a process and to its group: that is one.
_TWICE_SECS = 0.1
_NAMES = ('SIGTERM', 'SIGINT', 'SIGHUP')
_OF_OTHERS = 0  # in place of the number, for a signal to another process

Result = TypeVar('Result')


class Stopped(errors.UserError):
  """A signal ended the work; the same command goes on with it."""

  def __init__(self, message: str):
    super().__init__(message, errors.RESTART)


class _State:
  """What is known in this process; the flag is `signal`."""

  def __init__(self) -> None:
    self.signal = ''  # the name of the first one that came
    self.is_seen = False  # whether the work has looked since
    self.since = math.inf  # on the clock, since when an answer is due
    self.depth = 0  # contexts of `listening`
    self.grace: float | None = None  # of work that is finished first
    self.others: agreement.Agreement | None = None  # with other processes
    self.is_own = False  # whether the process is a command line's
    self.is_over = False  # whether the work has ended
    self.wake: int | None = None  # what is written to it wakes the thread


_state = _State()


def requested() -> bool:
  """Whether a signal asked to stop; who calls it answers, as `check` does."""
  agreed = _agreed()
  is_asked = bool(_state.signal) if agreed is None else agreed.is_reached()
  if is_asked:
    _state.is_seen = True
  return is_asked


def point() -> bool:
  """Passes a point of work that is finished first; returns `requested`.

  All processes of a run pass the same points, in the same order, and none in
  other threads at the same time.
  """
  agreed = _agreed()
  if agreed is not None:
    agreed.point()
  return requested()


def is_together() -> bool:
  """Whether this is work that several processes finish, and stop, together."""
  return _agreed() is not None


def _agreed() -> agreement.Agreement | None:
  """Returns with whom this process stops, None where it stops by itself."""
  return None if _state.grace is None else _state.others


def is_own() -> bool:
  """Whether this process is a command line's, which may be ended."""
  return _state.is_own


def is_over() -> bool:
  """Whether the work of this process has ended."""
  return _state.is_over


def reason() -> str:
  """Returns 'stopped by SIGNAL'."""
  return f'stopped by {_state.signal}'


def check() -> None:
  """Raises Stopped once a signal asked to stop."""
  if requested():
    raise together(f'{reason()}; the same command goes on.')


def together(message: str) -> Stopped:
  """Returns an error that ends this process, or all that stop with it."""
  error = Stopped(message)
  error.is_shared = _agreed() is not None
  return error


@overload
def wait(event: 'futures.Future[Result]') -> Result: ...


@overload
def wait(event: threading.Event) -> None: ...


def wait(event: Any) -> Any:
  """Returns the result of a future, or None once an event is set.

  Raises:
    Stopped: a signal asked to stop before or meanwhile.
  """
  check()
  if isinstance(event, threading.Event):
    while not event.wait(_POLL_SECS):
      check()
    return None
  while not event.done():
    futures.wait([event], _POLL_SECS)
    check()
  return event.result()


def ready(arrays: Iterable[Any]) -> None:
  """Waits until arrays of jax are computed; see `wait`."""
  start = time.monotonic()
  for array in arrays:
    while not array.is_ready():
      check()
      secs = 0.02 * (time.monotonic() - start)  # what waiting may cost
      time.sleep(min(max(secs, 1e-4), _POLL_SECS))
  check()


def call(function: Callable[..., Result], *arguments: Any) -> Result:
  """Calls a function in a thread; see `wait`.

  Where a signal comes first, the thread is left behind: the function must
  change nothing that lasts. Several processes leave it at the points that the
  function passes.
  """
  with worker() as pool:
    return wait(pool.submit(function, *arguments))


def call_alone(function: Callable[..., Result], *arguments: Any) -> Result:
  """Calls a function that concerns this process alone, see `call`.

  Several processes call it together, such as to compile the same program, and
  it must not use devices of others: so all of them can leave it.
  """
  agreed = _agreed()
  if agreed is None:
    return call(function, *arguments)
  if not agreed.enter_alone():
    result = call(function, *arguments)
    if not agreed.leave_alone():
      return result
  check()
  raise AssertionError('the point to stop at is reached')


@contextlib.contextmanager
def worker() -> Iterator[futures.ThreadPoolExecutor]:
  """Yields a thread; it is waited for unless an exception comes."""
  pool = futures.ThreadPoolExecutor(1, 'worker')
  is_whole = False
  try:
    yield pool
    is_whole = True
  finally:
    pool.shutdown(wait=is_whole, cancel_futures=True)


@contextlib.contextmanager
def finishing(grace_secs: float = GRACE_SECS) -> Iterator[None]:
  """Has the process wait for the work in the context once a signal came.

  It waits as long as it takes if the work looks at the flag within
  `grace_secs`.
  """
  _state.grace = grace_secs
  try:
    yield
  finally:
    _state.since = max(_state.since, time.monotonic())
    _state.grace = None


@contextlib.contextmanager
def listening() -> Iterator[None]:
  """Has signals ask the work in the context to stop.

  Python lets the main thread alone set handlers; elsewhere signals do what they
  did before. Outside of a command line's own process a second SIGINT does that
  too.
  """
  before: dict[int, Any] = {}
  if not _state.depth and not _state.is_own:
    before = _handle()
  with leaving.LAST_WORD:  # not while the process ends
    _state.depth += 1
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    if _state.depth == 1 and _state.is_own:
      over()
    elif _state.depth == 1:
      _state.__init__()  # type: ignore[misc]
    else:
      _state.depth -= 1


@contextlib.contextmanager
def agreeing() -> Iterator[None]:
  """Has several processes stop together in the context, which all enter."""
  from pyramid_jax.distributed import board  # loads jax, as does the next
  from pyramid_jax.distributed import processes

  if not processes.is_one_of_many() or _state.others is not None:
    yield
    return
  asked = lambda: _state.signal and f'{_state.signal} of {processes.name()}'
  _state.others = agreement.Agreement(
    board.Board('stop'), processes.process_part(), asked, _hear
  )
  _state.others.start()
  try:
    yield
  finally:
    _state.others.close()
    _state.others = None


def _hear(reason: str) -> None:
  """Takes a signal to another process as one to this."""
  if not _state.signal:
    _state.since = time.monotonic()
    _state.signal = reason
    if _state.wake is not None:
      with contextlib.suppress(OSError):  # it is full, so it wakes
        os.write(_state.wake, bytes([_OF_OTHERS]))


def over() -> None:
  """Says that the work has ended: signals change nothing any more."""
  with leaving.LAST_WORD:
    _state.is_over = True


def install() -> None:
  """Makes this process one of a command line; in the main thread, once."""
  _state.is_own = True
  receiver, sender = socket.socketpair()
  sender.setblocking(False)
  # Written to by the handler in C, even while the main thread runs no Python.
  _state.wake = sender.detach()
  signal.set_wakeup_fd(_state.wake, warn_on_full_buffer=False)
  threading.Thread(
    target=_watch, args=(receiver,), name='signals', daemon=True
  ).start()
  _handle()


def _handle() -> dict[int, Any]:
  """Sets the handlers; returns those before."""
  if threading.current_thread() is not threading.main_thread():
    return {}
  numbers = [getattr(signal, n) for n in _NAMES if hasattr(signal, n)]
  before: dict[int, Any] = {n: signal.getsignal(n) for n in numbers}
  if before.get(getattr(signal, 'SIGHUP', 0)) is signal.SIG_IGN:
    del before[signal.SIGHUP]

  def handle(number: int, frame: Any) -> None:
    is_again = bool(_state.signal) and number == signal.SIGINT
    _note(number)
    if is_again and not _state.is_own and callable(before[number]):
      before[number](number, frame)  # as a person would have it

  for number in before:
    signal.signal(number, handle)
  return before


def _note(number: int) -> None:
  if not _state.signal:
    _state.since = time.monotonic()
    _state.signal = signal.Signals(number).name


def _watch(signals: socket.socket) -> None:
  """Answers signals where the main thread does not, see the module."""
  first = math.inf
  while True:
    numbers = b''
    with contextlib.suppress(TimeoutError):
      numbers = signals.recv(16)
    now = time.monotonic()
    asked = [n for n in numbers if n and signal.Signals(n).name in _NAMES]
    is_again = signal.SIGINT in asked and now - first > _TWICE_SECS
    if asked:
      _note(asked[0])
      first = min(first, now)
    if asked or _OF_OTHERS in numbers:
      signals.settimeout(_POLL_SECS)
      if not is_again and _state.grace is not None:
        _tell()
    if is_again or _is_late():
      _leave(is_again)


def _is_late() -> bool:
  """Whether the answer to a signal took too long."""
  patience = 0.0
  if _state.grace is not None:
    patience = math.inf if _state.is_seen else _state.grace
  elif _state.depth:
    patience = ANSWER_SECS
  return time.monotonic() - _state.since >= patience


def _tell() -> None:
  from absl import logging

  logging.warning(
    '%s: finishing the step and saving; SIGINT leaves at once', _state.signal
  )


def _leave(is_again: bool) -> None:
  with leaving.LAST_WORD:
    if _state.is_over:
      _state.since = math.inf
    elif is_again or _is_late():
      more = 'the same command goes on.'
      leaving.at_once(errors.RESTART, f'{reason()}; {more}')
