"""Formats of files, and how damaged copies of one are read."""

from collections.abc import Callable
import dataclasses
import logging
import multiprocessing
import pathlib
from typing import Any
import warnings

from tests.helpers import mutations


SECS = 400  # for all copies of a format; a reader that hangs is ended
Errors = tuple[type[Exception], ...]


@dataclasses.dataclass(frozen=True)
class Format:
  """A whole file, and how a damaged one is read from a folder."""

  whole: bytes
  read: Callable[[pathlib.Path], object]
  prepare: Callable[[pathlib.Path], object] = lambda folder: None


def tried(
  entry: Format, path: pathlib.Path, count: int, errors: Errors
) -> mutations.Count:
  """Lets a reader take damaged copies of its format.

  Args:
    entry: the format.
    path: of each copy, in a folder of the test.
    count: of copies.
    errors: the reader's own, see `mutations.tried`.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  entry.prepare(path.parent)

  def read(raw: bytes) -> object:
    path.write_bytes(raw)
    return entry.read(path)

  read(entry.whole)
  copies = mutations.several(entry.whole, count)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return mutations.tried(read, copies, errors)


def tried_in_child(
  entry: Format, path: pathlib.Path, count: int, errors: Errors
) -> str:
  """Returns `tried` in words, of a child: it may crash or hang.

  Raises:
    AssertionError: it does, or a copy is not read as it should be.
  """
  fork = multiprocessing.get_context('fork')
  results = fork.SimpleQueue()
  arguments = (entry, path, count, errors, results)
  child = fork.Process(target=_in_child, args=arguments)
  child.start()
  child.join(SECS)
  if child.is_alive():
    child.kill()
    raise AssertionError(f'{path.name}: a reader hangs')
  assert not results.empty(), f'{path.name}: ended with {child.exitcode}'
  found = results.get()
  assert found.startswith(f'{count} of {count}: '), found
  return found


def _in_child(
  entry: Format, path: pathlib.Path, count: int, errors: Errors, results: Any
) -> None:
  logging.disable()
  try:
    results.put(str(tried(entry, path, count, errors)))
  except BaseException as error:
    results.put(f'{type(error).__name__}: {error}')
