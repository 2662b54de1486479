"""Reads and writes that are done again when storage fails for a moment."""

from collections.abc import Callable
import time
from typing import TypeVar

from absl import logging

from pyramid_jax import errors


WAITS_SECS = (0.1, 0.5, 2.0)  # before the second, the third, the last try
LIMIT_SECS = 20.0  # after so long no further try begins

T = TypeVar('T')


def repeat(
  function: Callable[[], T],
  what: object,
  sleep: Callable[[float], None] = time.sleep,
  clock: Callable[[], float] = time.monotonic,
) -> T:
  """Returns what a function returns, which may fail a few times.

  Only errors that `errors.is_transient` takes for such are tried again, each
  with a warning. Files that are missing or damaged, requests to stop and bugs
  are raised at once.

  Args:
    function: reads something, or writes what is whole or not there; it can be
      called again after it failed.
    what: the file, for the warning.
    sleep: waits for seconds.
    clock: seconds; a clock that nobody sets.

  Raises:
    Exception: the last error of the function.
  """
  start = clock()
  for secs in WAITS_SECS:
    try:
      return function()
    except Exception as error:
      if not errors.is_transient(error) or clock() - start > LIMIT_SECS:
        raise
      reason = errors.reason(error) if isinstance(error, OSError) else error
      logging.warning('%s: %s; trying again in %.1f s', what, reason, secs)
    sleep(secs)
  return function()
