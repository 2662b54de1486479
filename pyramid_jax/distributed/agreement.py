"""The point at which several processes stop: the same one in all of them.

All processes pass the same points in the same order, such as the steps of a
training run and the batches of its evaluations. One that is asked to stop says
so. Then each of them says how many points it has passed, and passes no other
until all have said it: they stop at the first point that none has passed.

Work between two points that concerns a process alone, such as a compilation,
can be given up (`enter_alone`, `leave_alone`). Where all processes are at it,
that is where they stop.

What they say goes through a board of keys and values, so no device is involved.
"""

from collections.abc import Callable
import threading
from typing import Protocol

from absl import logging

from pyramid_jax.distributed import messages


POLL_SECS = 0.5
_REQUEST = 'request'


class Board(Protocol):
  """Keys and values that all processes see."""

  def put(self, key: str, value: str) -> None:
    """Sets a key for good; one that is set stays what it is."""

  def get(self, key: str, secs: float) -> str | None:
    """Returns the value of a key, None if it is not set within so long."""

  def delete(self, prefix: str) -> None:
    """Removes the keys that begin with `prefix/`."""


class Agreement:
  """The part of one process."""

  def __init__(
    self,
    board: Board,
    part: tuple[int, int],
    asked: Callable[[], str],
    heard: Callable[[str], None],
  ):
    """Begins before the first point; `start` starts to listen.

    Args:
      board: of the run.
      part: the index of this process and how many there are.
      asked: returns why this process is asked to stop, '' as long as it is not;
        called from a thread, again and again.
      heard: called once any process is asked to stop, with the reason, from a
        thread.
    """
    self._board = board
    self._index, self._count = part
    self._asked = asked
    self._heard = heard
    # Held while the processes agree: no point is passed meanwhile.
    self._lock = threading.Lock()
    self._passed = 0
    self._is_alone = False
    self._last_alone = ''  # the keys of the last work that was done alone
    self._stop: int | None = None  # the number of the point
    self._is_closed = False

  def start(self) -> None:
    """Listens from now on, in a thread."""
    threading.Thread(target=self._run, name='agreement', daemon=True).start()

  def close(self) -> None:
    """Listens no more."""
    self._is_closed = True

  def is_reached(self) -> bool:
    """Whether the last point that was passed is the one to stop at."""
    return self._stop is not None and self._passed >= self._stop

  def point(self) -> bool:
    """Passes a point; returns whether to stop at it."""
    with self._lock:
      self._passed += 1
      return self.is_reached()

  def enter_alone(self) -> bool:
    """Passes a point and begins work that can be given up; see `point`.

    Until `leave_alone`, `is_reached` says whether to give it up.
    """
    with self._lock:
      self._passed += 1
      self._is_alone = not self.is_reached()
      return not self._is_alone

  def leave_alone(self) -> bool:
    """Waits until all processes have done such work; see `point`.

    Process 0 says when: what it has said when the processes agree, it counts as
    done.
    """
    key = f'alone/{self._passed}'
    self._board.put(f'{key}/{self._index}', '')
    if self._index:
      self._await(f'{key}/done')
    else:
      for index in range(self._count):
        self._await(f'{key}/{index}')
    with self._lock:
      self._is_alone = False
      if not self._index and not self.is_reached():
        self._board.put(f'{key}/done', '')
        if self._last_alone:
          self._board.delete(self._last_alone)
        self._last_alone = key
      return self.is_reached()

  def _await(self, key: str) -> None:
    """Waits for a key, or until the point to stop at is reached."""
    while not self.is_reached() and self._board.get(key, POLL_SECS) is None:
      pass

  def _run(self) -> None:
    try:
      if reason := self._request():
        self._heard(reason)
        with self._lock:
          self._agree()
    except Exception as error:
      # The service ends with the run, and so may the process.
      if not self._is_closed:
        logging.warning('the other processes are not heard any more: %s', error)

  def _request(self) -> str:
    """Waits until a process is asked to stop; returns why, '' once closed."""
    is_said = False
    while not self._is_closed:
      if not is_said and (reason := self._asked()):
        self._board.put(_REQUEST, reason)
        is_said = True
      found = self._board.get(_REQUEST, POLL_SECS)
      if found is not None:
        return found
    return ''

  def _agree(self) -> None:
    mine = self._passed, self._is_alone
    self._board.put(f'passed/{self._index}', messages.packed(mine))
    known: list[tuple[int, bool]] = []
    while len(known) < self._count and not self._is_closed:
      found = self._board.get(f'passed/{len(known)}', POLL_SECS)
      known += [] if found is None else [tuple(messages.unpacked(found))]
    points = {passed for passed, _ in known}
    are_alone = all(is_alone for _, is_alone in known)
    self._stop = max(points) + (len(points) > 1 or not are_alone)
