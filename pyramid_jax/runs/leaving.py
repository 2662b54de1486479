"""The end of a process: what it gives back when it must not wait.

Code that holds something which another process would miss, a lock or a file
that is not finished, says how to give it back while it has it. `at_once` ends
the process from any thread.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging as std_logging
import os
import sys
import threading
from typing import NoReturn


# Who has it says how the process ends: nobody has the last word twice.
LAST_WORD = threading.Lock()
# The time for giving back, on storage that may not answer.
_RELEASE_SECS = 5.0
_RELEASES: dict[object, Callable[[], object]] = {}
_GATE = threading.Lock()  # a process that ends takes nothing new

# The exit code and the message of a process that ends `at_once`.
ending: tuple[int, str] | None = None


@contextlib.contextmanager
def released(release: Callable[[], object]) -> Iterator[None]:
  """Calls `release` if the process ends `at_once` within the context."""
  key = object()
  with _GATE:
    _RELEASES[key] = release
  try:
    yield
  finally:
    _RELEASES.pop(key, None)


def at_once(code: int, message: str, details: str = '') -> NoReturn:
  """Ends the process, whatever its threads wait for.

  The caller has `LAST_WORD`. Buffers of files are not written: what is in them
  is not whole.

  Args:
    code: exit code.
    message: one line, for stderr and the log.
    details: lines for both that come before it.
  """
  global ending
  _GATE.acquire()
  ending = code, message
  text = f'{details}error: {message}\n'
  if os.isatty(2):
    text = f'\n{text}'  # a bar may be there
  threads = [
    threading.Thread(target=function, args=arguments, daemon=True)
    for function, arguments in ((_release, ()), (_say, (text,)))
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(_RELEASE_SECS)
  os._exit(code)


def _release() -> None:
  releases = list(_RELEASES.values())[::-1]
  # Twice: what another thread was about to take it has now.
  for release in (*releases, *releases):
    with contextlib.suppress(Exception):  # the others still have their turn
      release()


def _say(text: str) -> None:
  """Writes to stderr and to the files of the log."""
  with contextlib.suppress(OSError):
    os.write(2, text.encode())
  if 'absl.logging' not in sys.modules:  # too early for any file
    return
  from absl import logging

  logger = logging.get_absl_logger()
  record = logger.makeRecord(
    logger.name, std_logging.ERROR, __file__, 0, text.rstrip(), (), None
  )
  for handler in logger.handlers:
    if handler is not logging.get_absl_handler():  # that of stderr
      handler.handle(record)
