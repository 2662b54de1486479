"""Whether shards have the SHA-256 of their records.

A single process compares a shard when it first reads it. Of several processes
that train from one disk, each compares a part of the shards at the start, and
all learn what was found: a set is read once for it, not once for each process.
The copy of an object is compared when it is fetched, once for each host.
"""

from collections.abc import Sequence
from concurrent import futures
import pathlib
from typing import Any

from pyramid_jax import errors
from pyramid_jax.distributed import processes
from pyramid_jax.files import copies
from pyramid_jax.files import json_text
from pyramid_jax.files import stores
from pyramid_jax.runs import stopping


_TOPIC = 'shards'  # of the messages


def read_json(file: pathlib.Path) -> dict[str, Any]:
  """Returns a JSON object; anything else is a UserError."""
  try:
    value = json_text.read(file)
  except (OSError, ValueError) as error:
    raise errors.UserError(f'{file}: {error}', errors.DATA) from error
  if not isinstance(value, dict):
    raise errors.UserError(f'{file} is not a JSON object.', errors.DATA)
  return value


def of_record(file: pathlib.Path) -> Any:
  """Returns the SHA-256 of a shard by the record beside it."""
  return read_json(file.with_suffix('.json')).get('sha256')


def verified(file: pathlib.Path) -> pathlib.Path:
  """Returns the path of a file that has its SHA-256, or of such a copy.

  Raises:
    UserError: it has another one, or is not there.
  """
  want = str(of_record(file))
  try:
    if stores.is_remote(file):
      return copies.local(file, want)
    copies.check(file, want)
  except errors.UserError:
    raise
  except OSError as error:
    raise errors.UserError(errors.reason(error), errors.MISSING) from error
  except ValueError as error:
    text = f'{file} {error}: damaged; delete it and write it again.'
    raise errors.UserError(text, errors.DATA) from error
  return file


def verify_together(files: Sequence[pathlib.Path], threads: int) -> bool:
  """Compares shards, a part in each process of the run.

  All processes call it with the same files. Returns whether it was done: not by
  a single process, not for objects, and not where hosts have disks of their
  own, whose shards may differ.

  Raises:
    UserError: the first one, in all processes, that one of them found.
  """
  index, count = processes.process_part()
  if count == 1 or not files or stores.is_remote(files[0]):
    return False
  places = processes.collected(_place(files[0]), _TOPIC)
  if places != places[:1] * count:
    return False
  pool = futures.ThreadPoolExecutor(threads)
  fault: tuple[str, int] = '', 0
  try:
    for _ in pool.map(verified, files[index::count]):
      stopping.check()
  except errors.UserError as error:
    if error.code not in (errors.DATA, errors.MISSING):
      raise
    fault = str(error), error.code
  finally:
    pool.shutdown(cancel_futures=True)
  for text, code in processes.collected(fault, _TOPIC):
    if text:
      found = errors.UserError(text, code)
      found.is_shared = True
      raise found
  return True


def _place(file: pathlib.Path) -> list[int]:
  """Returns what the record of a shard has on one disk alone."""
  found = file.with_suffix('.json').stat()
  return [found.st_ino, found.st_mtime_ns]
