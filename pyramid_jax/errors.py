"""Exit codes, and the errors that end a command with one line."""

from collections.abc import Iterator
import contextlib
import os


# Those of sysexits.h where it has one; a launcher restarts on RESTART alone.
OK = 0
USAGE = 64  # wrong flag, config or argument
DATA = 65  # a file is damaged or is not what it should be
MISSING = 66  # an input is not there
BUG = 70  # an unexpected exception
OUTPUT = 73  # the workdir cannot be written
RESTART = 75  # preempted; the same command goes on
DIVERGED = 76  # NaN or Inf in the loss, in the gradients or in samples


class UserError(ValueError):
  """An error that the user can correct; its message is one line.

  Attributes:
    code: exit code of the process, one of the constants of this module.
  """

  def __init__(self, message: str, code: int = USAGE):
    super().__init__(' '.join(message.split()))
    self.code = code


def reason(error: OSError) -> str:
  """Returns which file failed and why, without the number of the error."""
  if error.filename is None or not error.strerror:
    return error.strerror or str(error)
  return f'{os.fsdecode(error.filename)}: {error.strerror}'


@contextlib.contextmanager
def user_errors(value: int = USAGE, missing: int = MISSING) -> Iterator[None]:
  """Turns ValueError and OSError, which lower floors raise, into `UserError`.

  Args:
    value: exit code of a ValueError.
    missing: exit code of an OSError.
  """
  try:
    yield
  except UserError:
    raise
  except ValueError as error:
    raise UserError(str(error), value) from error
  except OSError as error:
    raise UserError(reason(error), missing) from error
