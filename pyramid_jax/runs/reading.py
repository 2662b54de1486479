"""What an error of a read means: a damaged file, or storage that failed.

A file is damaged only if its content says so. What storage, the system or a
request to stop answers says nothing about it.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import errno
import os
from typing import Any
from typing import TypeVar

import jax

from pyramid_jax import errors
from pyramid_jax.distributed import processes
from pyramid_jax.files import retries


# Errors of the system that say that a file is missing or of another kind.
_CONTENT = frozenset(
  (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP)
)

Path = str | os.PathLike[str]
T = TypeVar('T')


class DamagedError(Exception):
  """Something that cannot be used, by its content."""

  def __init__(self, reason: str, message: str):
    super().__init__(message)
    self.reason = reason  # one word, for the name that the folder gets


def read(function: Callable[[], T], path: Path, reason: str) -> T:
  """Returns what a function reads from a path, tried again where that helps.

  Raises:
    DamagedError: the content is not what was written; with the `reason`.
    UserError: storage failed; RESTART if it may be well later, else MISSING.
  """
  with content(path, reason):
    return retries.repeat(function, path)


def together(function: Callable[[], T]) -> T:
  """Returns what a function returns, if it fails in none of the processes.

  All of them call it. Where one has failed, all do: with the error of the first
  one, where storage or a config is the reason, else with its damage.

  Raises:
    DamagedError, UserError: those of the function.
  """
  found: list[T] = []
  own: DamagedError | errors.UserError | None = None
  try:
    found.append(function())
  except (DamagedError, errors.UserError) as error:
    own = error
  outcomes = processes.collected(_outcome(own))
  failed = [x for x in outcomes if x is not None]
  if not failed:
    return found[0]
  first = next((x for x in failed if 'code' in x), failed[0])
  chosen = own if own and _outcome(own) == first else _of_outcome(first)
  if isinstance(chosen, errors.UserError):
    chosen.is_shared = True
  raise chosen


def _outcome(error: DamagedError | errors.UserError | None) -> Any:
  """Returns an error as a value of JSON."""
  if isinstance(error, DamagedError):
    return {'why': str(error), 'reason': error.reason}
  return error and {'why': str(error), 'code': error.code}


def _of_outcome(outcome: Mapping[str, Any]) -> DamagedError | errors.UserError:
  if 'code' in outcome:
    return errors.UserError(outcome['why'], outcome['code'])
  return DamagedError(outcome['reason'], outcome['why'])


@contextlib.contextmanager
def content(path: Path, reason: str) -> Iterator[None]:
  """Turns any error of a reader into what it means, see `read`.

  Damage surfaces as any exception of Orbax, TensorStore or json.
  """
  try:
    yield
  except DamagedError:
    raise
  except Exception as error:
    chain = _chain(error)
    for link in chain:
      if isinstance(link, errors.UserError | MemoryError):
        raise link from error
      if isinstance(link, jax.errors.JaxRuntimeError):
        raise
    if (failed := _storage(chain)) is not None:
      raise failed_read(path, failed) from error
    line = f'{type(error).__name__}: {first_line(error)}'
    raise DamagedError(reason, line) from error


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
  """Turns errors of the system in reading into a `UserError` of `read`."""
  try:
    yield
  except errors.UserError:
    raise
  except Exception as error:
    if not isinstance(error, OSError) and errors.number(error) is None:
      raise
    raise failed_read(path, error) from error


def failed_read(path: Path, error: BaseException) -> errors.UserError:
  """Returns the error of a read that failed for no fault of the content."""
  number = errors.number(error)
  words = errors.words(error) or first_line(error)
  is_denied = number in (errno.EACCES, errno.EPERM)
  hint = 'nothing in it was changed'
  code = errors.MISSING if is_denied else errors.RESTART
  if code == errors.RESTART:
    hint += '; the same command goes on once it can be read'
  return errors.UserError(f'cannot read {path}: {words}; {hint}.', code)


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's text, not too long."""
  return (str(error).splitlines() or [''])[0][:300]


def _chain(error: BaseException) -> list[BaseException]:
  """Returns an error and those that it was raised from, or while handling."""
  found: list[BaseException] = []
  link: BaseException | None = error
  while link is not None and link not in found:
    found.append(link)
    link = link.__cause__ or link.__context__
  return found


def _storage(chain: list[BaseException]) -> BaseException | None:
  """Returns the first error of a chain that is one of storage."""
  for link in chain:
    number = errors.number(link)
    if number is not None and number not in _CONTENT:
      return link
  return None
