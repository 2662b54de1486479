"""What a data set was made of, so that a resumed run notices another one.

A reader names its parts: the names and sizes of its images, and the SHA-256 of
the files that describe them. No image is read for it: a file that is replaced
by another of the same size goes unnoticed, unless `config.data.checksums` lists
what the files have. Names are relative to the folder of the split, so that
data may be moved; neither the order in which a folder is listed nor the process
that lists it makes a difference.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import contextlib
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import files
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import category_lists
from pyramid_jax.data.storage import checksums
from pyramid_jax.data.storage import listing
from pyramid_jax.files import digests
from pyramid_jax.files import remote_path
from pyramid_jax.files import retries
from pyramid_jax.files import seals
from pyramid_jax.files import stores


IMAGES = 'images'  # The size of each in bytes.
MAPS = 'maps'  # the same of semantic maps
FILES = 'files'  # The SHA-256 of annotations, lists and vocabularies.
SHARDS = 'shards'  # the SHA-256, or the number of examples, of each
CHECKSUMS = 'checksums'  # The SHA-256 of their list.
SOURCE = 'source'  # What makes the examples, and how.
_UNITS = {IMAGES: ' bytes', MAPS: ' bytes'}
_THREADS = 8
_HASH = 64  # letters

# Name -> size, SHA-256 or value; None for a file that is not there.
Part = Mapping[str, Any]
Identity = Mapping[str, Part]
# {part: {'count': entries, 'sha256': of names and values}}
Facts = Mapping[str, Mapping[str, Any]]


def sizes(folder: pathlib.Path, names: Iterable[str]) -> dict[str, int | None]:
  """Returns the size of files in bytes, None for one that is not there.

  Raises:
    OSError: the file system does not say.
  """
  names = list(names)
  if stores.is_remote(folder):
    return _sizes_of_objects(remote_path.RemotePath(folder), names)
  base = os.path.join(os.fspath(folder), '')
  chunks = [names[i::_THREADS] for i in range(_THREADS)]

  def of(chunk: Sequence[str]) -> list[int | None]:
    return [_size(base + name) for name in chunk]

  found: dict[str, int | None] = {}
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    for chunk, values in zip(chunks, pool.map(of, chunks), strict=True):
      found.update(zip(chunk, values, strict=True))
  return found


def _sizes_of_objects(
  folder: remote_path.RemotePath, names: Sequence[str]
) -> dict[str, int | None]:
  """Returns the sizes that the list of a folder has: one request for many."""
  there: dict[str, remote_path.Stat] = {}
  if names:
    with contextlib.suppress(FileNotFoundError):
      there = remote_path.tree(folder)
  return {n: there[n].length if n in there else None for n in names}


def _size(path: str) -> int | None:
  try:
    return os.stat(path).st_size
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError:
    return retries.repeat(lambda: os.stat(path).st_size, path)


def digest(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file, which is read in pieces.

  Raises:
    OSError: it cannot be read.
  """
  return retries.repeat(lambda: digests.sha256(path), path)


def of_files(paths: Mapping[str, pathlib.Path]) -> dict[str, str]:
  """Returns the SHA-256 of files by the names that messages give them."""
  return {name: digest(path) for name, path in paths.items()}


def of_config(config: ConfigDict) -> dict[str, str]:
  """Returns the SHA-256 of the lists that the config names, by their field."""
  paths = {}
  if config.data.category_file:
    path = category_lists.path_of(config.data.category_file)
    paths['config.data.category_file'] = path
  if config.condition.task in tokenizers.TEXT_TASKS:
    for field in ('vocab_file', 'merges_file'):
      if config.condition[field]:
        name = f'config.condition.{field}'
        paths[name] = files.local(config.condition[field], name)
  return of_files(paths)


def of_checksums(config: ConfigDict) -> dict[str, str]:
  """Returns the SHA-256 of the list of checksums, if there is one."""
  path = checksums.path_of(config)
  return {} if path is None else of_files({checksums.FIELD: path})


def facts(identity: Identity) -> dict[str, dict[str, Any]]:
  """Returns the number of entries of each part and their SHA-256."""
  return {
    part: {'count': len(entries), 'sha256': seals.digest(dict(entries))}
    for part, entries in identity.items()
    if entries
  }


def differences(
  was: Facts, now: Facts, listed_was: Identity, listed_now: Identity
) -> list[str]:
  """Returns what changed, a text for each part, [] for nothing.

  Args:
    was: of the data before; parts that it does not have are not compared.
    now: of those of now.
    listed_was: the entries of those parts of which they are known.
    listed_now: the same of now.
  """
  lines = []
  for part in sorted(was.keys() | now.keys()):
    before, after = was.get(part, {}), now.get(part, {})
    if not before or before == after:
      continue
    counts = before.get('count', 0), after.get('count', 0)
    line = part
    if counts[0] != counts[1]:
      line += f' {counts[0]} -> {counts[1]}'
    old, new = listed_was.get(part), listed_now.get(part, {})
    if old is None:
      lines.append(f'{line} (which ones is not known)')
    else:
      lines.append(f'{line}: {_changes(old, new, _UNITS.get(part, ""))}')
  return lines


def _changes(old: Part, new: Part, unit: str) -> str:
  """Says which entries of a part are gone, new or changed."""
  kinds = {
    'gone': [x for x in old if x not in new],
    'new': [x for x in new if x not in old],
    'changed': [
      f'{x} {_short(old[x])} -> {_short(new[x])}{unit}'
      for x in old
      if x in new and old[x] != new[x]
    ],
  }
  texts = (listing.counted(kind, x) for kind, x in kinds.items() if x)
  return ', '.join(texts)


def _short(value: Any) -> str:
  if value is None:
    return 'absent'
  is_hash = isinstance(value, str) and len(value) == _HASH
  return f'{value[:8]}...' if is_hash else str(value)
