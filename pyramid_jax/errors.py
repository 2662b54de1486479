"""Exit codes, and the errors that end a command with one line."""

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib
import re
import shutil
from typing import Any
from typing import Protocol
from typing import TypeVar

from absl import logging


# Those of sysexits.h where it has one; a launcher restarts on RESTART alone.
OK = 0
USAGE = 64  # wrong flag, config or argument
DATA = 65  # a file is damaged or is not what it should be
MISSING = 66  # an input is not there
BUG = 70  # an unexpected exception
OUTPUT = 73  # a file cannot be written
RESTART = 75  # preempted; the same command goes on
DIVERGED = 76  # NaN or Inf in the loss, in the gradients or in samples
_SHOWN = 1000  # characters of a message at each end, at most


# Errors of storage that may be gone when the same is done again.
TRANSIENT = frozenset(
  getattr(errno, name)
  for name in (
    *('EIO', 'EREMOTEIO', 'ESTALE', 'ETIMEDOUT', 'EINTR', 'EAGAIN', 'EBUSY'),
    *('ECONNRESET', 'ECONNREFUSED', 'ECONNABORTED', 'ENOTCONN', 'ENOLINK'),
    *('ENETDOWN', 'ENETUNREACH', 'EHOSTDOWN', 'EHOSTUNREACH', 'ENOBUFS'),
  )
  if hasattr(errno, name)
)
# Those that say that there is no room.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BUGS = (TypeError, AttributeError, NameError, LookupError, AssertionError)
# What services of storage answer, by the status of HTTP.
_STATUS = {
  **dict.fromkeys((401, 403), errno.EACCES),
  404: errno.ENOENT,
  **dict.fromkeys((408, 504), errno.ETIMEDOUT),
  429: errno.EAGAIN,
  **dict.fromkeys((500, 502, 503), errno.EIO),
}
# The libraries that ask them, and what of their errors has no status.
_CLIENTS = ('gcsfs', 'fsspec', 'aiohttp', 'requests', 'google')
_CLIENT_ERRORS = {
  **dict.fromkeys(('DefaultCredentialsError', 'RefreshError'), errno.EACCES),
  **dict.fromkeys(('FSTimeoutError', 'Timeout'), errno.ETIMEDOUT),
  **dict.fromkeys(
    ('ClientError', 'ConnectionError', 'TransportError'), errno.ECONNRESET
  ),
  **dict.fromkeys(('ChecksumError', 'ChunkedEncodingError'), errno.EIO),
}
_FORBIDDEN = 'Forbidden: '  # how gcsfs begins an OSError without a number
# The words of TensorStore, where storage is no file system and has no `errno`.
_WORD = re.compile(r'([A-Z_]+): ')
_WORDS = {
  **dict.fromkeys(('PERMISSION_DENIED', 'UNAUTHENTICATED'), errno.EACCES),
  'DEADLINE_EXCEEDED': errno.ETIMEDOUT,
  **dict.fromkeys(
    ('UNAVAILABLE', 'ABORTED', 'CANCELLED', 'RESOURCE_EXHAUSTED'),
    errno.EAGAIN,
  ),
}
# How safetensors and TensorStore name the error of the system in their texts.
_NUMBER = re.compile(r"os error (\d+)|os_error_code='(\d+)'")


class UserError(ValueError):
  """An error that the user can correct; its message is one line.

  Of a message with a long value, the middle is left out.

  Attributes:
    code: exit code of the process, one of the constants of this module.
    is_shared: whether all processes of a run raise it at the same place.
  """

  def __init__(self, message: str, code: int = USAGE):
    super().__init__(_line(message))
    self.code = code
    self.is_shared = False


def shown(value: Any) -> str:
  """Returns any value as messages show it."""
  try:
    return repr(value)
  except ValueError:  # a whole number of more than 4300 digits
    return f'a {type(value).__name__} that is too long to print'


def _line(text: str) -> str:
  """Returns a text as one line of characters that a terminal shows."""
  line = ' '.join(text.split())
  if len(line) > 2 * _SHOWN:
    line = f'{line[:_SHOWN]} ... {line[-_SHOWN:]}'
  return printable(line)


def printable(text: str) -> str:
  """Returns a text with escapes for what a terminal does not show."""
  shown = (c if c.isprintable() else ascii(c)[1:-1] for c in text)
  return ''.join(shown)


def reason(error: OSError) -> str:
  """Returns which file failed and why, without the number of the error."""
  if error.filename is None or not error.strerror:
    return error.strerror or str(error)
  return f'{os.fsdecode(error.filename)}: {error.strerror}'


class StoreError(OSError):
  """What a store of objects answered, in its own words."""


def number(error: BaseException) -> int | None:
  """Returns the `errno` behind an error, None if it is not the system's.

  An error of a library has it in its text, or was raised because of an OSError
  or while one was handled: a second failure in clean-up hides no first. A bug
  stays one whenever it happens. What a store of objects answers has the number
  that a disk would give.
  """
  return _found(error)[0]


def words(error: BaseException) -> str:
  """Returns in words what `number` returns, '' where that is None."""
  code, link = _found(error)
  if code is None:
    return ''
  is_store = isinstance(link, StoreError) or _answer(link) is not None
  text = link.strerror if isinstance(link, StoreError) else str(link)
  lines = (text or '').splitlines() if is_store else []
  return lines[0][:_SHOWN] if lines else os.strerror(code)


def _found(error: BaseException) -> tuple[int | None, BaseException]:
  """Returns the `errno` behind an error, and the error that has it."""
  link: BaseException | None = None if isinstance(error, _BUGS) else error
  while link is not None:
    if isinstance(link, OSError) and link.errno is not None:
      return link.errno, link
    if not isinstance(link, UserError) and (m := _NUMBER.search(str(link))):
      return int(m[1] or m[2]), link
    if (code := _answer(link)) is not None:
      return code, link
    link = link.__cause__ or link.__context__
  return None, error


def _answer(error: BaseException) -> int | None:
  """Returns the `errno` of what a store of objects answered, else None."""
  if isinstance(error, UserError):
    return None
  if (code := _of_service(error)) is not None:
    return code
  match = _WORD.match(str(error)) if isinstance(error, ValueError) else None
  return _WORDS.get(match[1]) if match else None


def _of_service(error: BaseException) -> int | None:
  """Returns the number of what a service of storage or its client says."""
  if isinstance(error, OSError) and str(error).startswith(_FORBIDDEN):
    return errno.EACCES
  if type(error).__module__.partition('.')[0] not in _CLIENTS:
    return None
  for name in ('code', 'status'):
    status = str(getattr(error, name, None))
    if status.isdecimal() and len(status) == 3:
      return _STATUS.get(int(status))
  kinds = (kind.__name__ for kind in type(error).__mro__)
  return next((_CLIENT_ERRORS[k] for k in kinds if k in _CLIENT_ERRORS), None)


def is_transient(error: BaseException) -> bool:
  """Whether an error may be gone when the same is done again."""
  return number(error) in TRANSIENT


@contextlib.contextmanager
def writing(
  what: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> Iterator[None]:
  """Turns what says that a file cannot be written into `UserError`.

  That is an OSError, or the error that a library made of one. All else passes.

  Args:
    what: the file or folder, or words for it.
    folder: where it is, if `what` is words.

  Raises:
    UserError: one line with the file and the reason; if there is no room, with
      the bytes that are free.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    code = number(error)
    if code is None and not isinstance(error, OSError):
      raise
    why = words(error) if code else ' '.join(str(error).split())
    name = getattr(error, 'filename', None)
    if name is not None and not _is_of(os.fsdecode(name), os.fspath(what)):
      why = f'{os.fsdecode(name)}: {why}'
    if code in FULL:
      why += _room(folder or what)
    text = f'cannot write {os.fspath(what)}: {why}.'
    raise UserError(text, OUTPUT) from error


def _is_of(name: str, what: str) -> bool:
  """Whether a name is that of a file, or the private one it is written to."""
  return os.path.basename(what) in os.path.basename(name)


def _room(place: str | os.PathLike[str]) -> str:
  """Says how much room a file system has, '' if it does not tell."""
  free = _free(place)
  if free is None:
    return ''
  return f' ({free:,} bytes are free); with room the same command goes on'


def _free(place: str | os.PathLike[str]) -> int | None:
  """Returns the free bytes of a file system, None if it does not tell.

  A store of objects does not.
  """
  if '://' in os.fspath(place):
    return None
  path = pathlib.Path(place)
  for folder in (path, *path.absolute().parents):
    with contextlib.suppress(OSError):
      return shutil.disk_usage(folder).free
  return None


def check_room(
  what: str | os.PathLike[str],
  need: int,
  folder: str | os.PathLike[str] | None = None,
) -> None:
  """Raises `UserError` if there are fewer free bytes than will be written.

  Args:
    what: see `writing`.
    need: bytes that will be written.
    folder: see `writing`.
  """
  place = folder or what
  free = _free(place)
  if free is not None and free < need:
    raise UserError(
      f'cannot write {os.fspath(what)}: {need:,} bytes are needed'
      f'{_room(place)}.',
      OUTPUT,
    )


class Closable(Protocol):
  """What has to be closed."""

  def close(self) -> None:
    """Closes it; may fail."""


T = TypeVar('T', bound=Closable)


@contextlib.contextmanager
def closing(thing: T) -> Iterator[T]:
  """Closes a thing in the end; what fails then hides no error before it."""
  try:
    yield thing
  except BaseException:
    try:
      thing.close()
    except Exception as second:
      logging.warning('after what went wrong before: %s', second)
    raise
  thing.close()


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
