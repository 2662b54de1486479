"""What Orbax is given where several processes write one checkpoint.

Each writes its part; process 0 writes what there is once, and gives the whole
its name after all have written. They wait for each other on a board of keys,
never by their devices, which may be at work. A part that cannot be written ends
the save in all of them.
"""

from collections.abc import Callable
import itertools
import time
from typing import Any

from pyramid_jax import errors
from pyramid_jax.distributed import board as board_lib
from pyramid_jax.distributed import processes


_POLL_SECS = 0.5
_FAILED = 'failed'
_GIVEN_UP = 'given_up'
_REMOVED = 'removed'
# How long the other processes may take to give up, and process 0 to remove what
# there is; after that a process goes on.
_GIVE_UP_SECS = 10.0
_REMOVE_SECS = 30.0
_numbers = itertools.count()  # of saves; all processes make the same


class Options:
  """The options of one save, or with one process of any number of them."""

  def __init__(self) -> None:
    """Begins a save; all processes begin the same."""
    self._name = f'save{next(_numbers)}'
    self._board = board_lib.Board(self._name)

  def together(self) -> Any:
    """Returns Orbax's options of the processes."""
    import orbax.checkpoint as ocp  # slow to load

    _, count = processes.process_part()
    if count == 1:
      return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
      # With their names it makes them wait by keys and not by devices.
      active_processes=set(range(count)),
      barrier_sync_key_prefix=self._name,
    )

  def background(self) -> Any:
    """Returns Orbax's options of what it does in threads."""
    import orbax.checkpoint as ocp

    return ocp.AsyncOptions(
      # A folder that cannot be made is an error here, not a thread that waits
      # for it.
      create_directories_asynchronously=False,
      barrier_sync_fn=self._meet if processes.is_one_of_many() else None,
    )

  def handler(self) -> Any:
    """Returns what writes the items of a checkpoint."""
    import orbax.checkpoint as ocp

    if not processes.is_one_of_many():
      return ocp.CompositeCheckpointHandler()
    return ocp.CompositeCheckpointHandler(
      composite_options=ocp.CompositeOptions(
        multiprocessing_options=self.together(),
        async_options=self.background(),
      )
    )

  def fail(self, why: str) -> None:
    """Says that a process cannot write its part: the others give up."""
    if processes.is_one_of_many():
      self._board.put(_FAILED, why)

  def give_up(self, remove: Callable[[], None]) -> None:
    """Ends a failed save, once this process writes no more.

    Process 0 calls `remove` after all have given up: what is still written into
    a folder that is gone is waited for without end. The others wait until it
    has removed, because their end is that of process 0 too.
    """
    index, count = processes.process_part()
    if index:
      self._board.put(f'{_GIVEN_UP}/{index}', '')
      self._board.get(_REMOVED, _REMOVE_SECS)
      return
    end = time.monotonic() + _GIVE_UP_SECS
    for other in range(1, count):
      left = max(0.0, end - time.monotonic())
      self._board.get(f'{_GIVEN_UP}/{other}', left)
    remove()
    if count > 1:
      self._board.put(_REMOVED, '')

  def _meet(self, *, key: str, timeout_ms: int) -> None:
    """Waits until all processes are here; process 0 says when.

    What waits for too long is the watchdog's.

    Raises:
      UserError: one of them cannot write its part.
    """
    del timeout_ms
    index, count = processes.process_part()
    self._board.put(f'{key}/{index}', '')
    if index:
      self._await(f'{key}/all')
      return
    for other in range(count):
      self._await(f'{key}/{other}')
    self._board.put(f'{key}/all', '')

  def _await(self, key: str) -> None:
    while self._board.get(key, _POLL_SECS) is None:
      why = self._board.get(_FAILED, 0.0)
      if why is not None:
        raise errors.UserError(why, errors.OUTPUT)
