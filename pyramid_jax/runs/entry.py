"""The process of a command line, from its first import to its last line.

A module that is run begins with

  if __name__ == '__main__':
    from pyramid_jax.runs import entry

    entry.run('pyramid_jax.commands.NAME')

so that a signal finds its handler while all else is imported.
"""

import atexit
from collections.abc import Sequence
import contextlib
import importlib
import os
import sys
import threading
import time
import traceback
from typing import NoReturn

from pyramid_jax import errors
from pyramid_jax.runs import stopping


# Threads that still wait for something have so long after the last line.
LEAVE_SECS = 2.0


def run(
  module: str, function: str = 'main', arguments: Sequence[str] | None = None
) -> NoReturn:
  """Runs a command line as this process, and ends it with the exit code.

  Args:
    module: of the command, imported once signals are handled.
    function: of it, (arguments) -> exit code.
    arguments: of the command line; None for those of the process.
  """
  _open_standard_files()
  stopping.install()
  codes: list[int] = []
  # Called last, since it is the first: threads of libraries get no other turn.
  atexit.register(lambda: _end(codes[0]) if codes else None)
  codes.append(_code(module, function, arguments))
  stopping.over()
  threading.Thread(target=_end_late, args=codes, daemon=True).start()
  sys.exit(codes[0])


def _open_standard_files() -> None:
  """Gives a process that was started without stdin or stderr empty ones.

  Otherwise the next file that is opened has their number, and what a library
  says to stderr is written into it.
  """
  while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
    pass
  os.close(handle)
  sys.stdout = sys.stdout or os.fdopen(1, 'w')
  sys.stderr = sys.stderr or os.fdopen(2, 'w')


def _code(module: str, function: str, arguments: Sequence[str] | None) -> int:
  try:
    found = importlib.import_module(module)
    importlib.import_module('pyramid_jax.runs.writers').setup()
    return int(getattr(found, function)(arguments))
  except SystemExit as error:
    return error.code if isinstance(error.code, int) else errors.OK
  except BaseException:
    traceback.print_exc()
    return errors.BUG


def _end_late(code: int) -> None:
  """Ends a process whose threads do not: of a save or a read that hangs."""
  time.sleep(LEAVE_SECS)
  _end(code)


def _end(code: int) -> NoReturn:
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(code)
