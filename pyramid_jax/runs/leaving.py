"""The end of a process that must not wait, from any of its threads."""

import contextlib
import logging as std_logging
import os
import sys
import threading
from typing import NoReturn

from pyramid_jax.files import releases


# Who has it says how the process ends: nobody has the last word twice.
LAST_WORD = threading.Lock()
# The time for giving back, on storage that may not answer.
_RELEASE_SECS = 5.0

# The exit code and the message of a process that ends `at_once`.
ending: tuple[int, str] | None = None


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
  releases.close()
  ending = code, message
  text = f'{details}error: {message}\n'
  if os.isatty(2):
    text = f'\n{text}'  # a bar may be there
  threads = [
    threading.Thread(target=function, args=arguments, daemon=True)
    for function, arguments in ((releases.give_back, ()), (_say, (text,)))
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(_RELEASE_SECS)
  os._exit(code)


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
