"""What was found out about a data set, kept between runs.

An index is an .npz in a folder of its own below `config.data.cache_dir`, never
among the data. It appears when it is whole; the processes of a host wait for
the one that makes it, and hosts that share the folder may make the same one
twice. One that is damaged is made again, and without a folder that can be
written nothing is kept.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import hashlib
import json
import os
import pathlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.files import arrays as arrays_lib
from pyramid_jax.files import copies
from pyramid_jax.files import whole_files


FILE = 'index.npz'
# Below this, reading files again is faster than it is worth an index.
MIN_BYTES = 16 << 20
_FILES_VERSION = 4  # of what an index of files holds
_KEY = 32  # letters of the name of a folder
Arrays = dict[str, np.ndarray]


def user_folder() -> pathlib.Path:
  """Returns the user's folder of what can be made again."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'pyramid_jax'


def folder(config: ConfigDict) -> pathlib.Path:
  """Returns where the indices of a config are kept.

  Raises:
    UserError: a folder that is not on a disk.
  """
  given = config.data.cache_dir
  if '://' in given:
    raise errors.UserError(
      f'config.data.cache_dir is {given}, must be a folder on a disk.'
    )
  return pathlib.Path(given).expanduser() if given else user_folder()


def load_or_build(
  cache: pathlib.Path,
  key: Any,
  build: Callable[[], Arrays],
  is_current: Callable[[Arrays], bool] = lambda arrays: True,
  is_kept: Callable[[Arrays], bool] = lambda arrays: True,
) -> Arrays:
  """Returns what is kept under a key, or makes and keeps it.

  Args:
    cache: the folder of all indices, see `folder`.
    key: JSON values on which the index depends, its kind and version among
      them; one with another key lies elsewhere.
    build: makes the arrays, which hold no Python objects.
    is_current: whether kept arrays are those that `build` would make; if not,
      new ones take their place.
    is_kept: whether new arrays are worth to be kept.
  """
  place = _place(cache, key)
  arrays = _load(place, is_current)
  if arrays is not None:
    return arrays
  with _alone(place.parent):
    arrays = _load(place, is_current)  # Another process may have made it.
    if arrays is not None:
      return arrays
    arrays = build()
    if is_kept(arrays):
      _save(place, arrays)
  return arrays


def of_files(
  files: Sequence[pathlib.Path],
  options: Mapping,
  build: Callable[[], Arrays],
  cache: pathlib.Path | None = None,
) -> Arrays:
  """Returns `build()`, or what it returned for the same files and options.

  Files are the same if path, size and time of change are. The index of small
  files is not kept.

  Args:
    files: what is read.
    options: JSON values on which `build` depends besides `files`.
    build: makes the arrays, which hold no Python objects.
    cache: see `folder`; None for that of the user.
  """
  stats = [(file, file.stat()) for file in files]
  if sum(stat.st_size for _, stat in stats) < MIN_BYTES:
    return build()
  facts = [
    (str(file.resolve()), stat.st_size, stat.st_mtime_ns)
    for file, stat in stats
  ]

  def said() -> Arrays:
    logging.info('Indexing %s', ', '.join(map(str, files)))
    return build()

  cache = user_folder() if cache is None else cache
  return load_or_build(cache, [_FILES_VERSION, facts, options], said)


def _place(cache: pathlib.Path, key: Any) -> pathlib.Path:
  text = json.dumps(key, sort_keys=True)
  return cache / hashlib.sha256(text.encode()).hexdigest()[:_KEY] / FILE


def _load(
  place: pathlib.Path, is_current: Callable[[Arrays], bool]
) -> Arrays | None:
  try:
    arrays = arrays_lib.load(place)
    return arrays if is_current(arrays) else None
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (OSError, ValueError, LookupError) as error:
    logging.warning('Ignored the damaged index %s: %s', place, error)
    return None


@contextlib.contextmanager
def _alone(place: pathlib.Path) -> Iterator[None]:
  """Waits for other processes of this host that make the same index.

  Where the folder cannot be made each process makes its own. A folder in which
  nothing is kept in the end is removed.
  """
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):
      place.mkdir(parents=True, exist_ok=True)
      stack.callback(_remove_empty, place)
      stack.enter_context(copies.one_at_a_time(place))
    yield


def _remove_empty(place: pathlib.Path) -> None:
  with contextlib.suppress(OSError):
    place.rmdir()


def _save(place: pathlib.Path, arrays: Arrays) -> None:
  try:
    whole_files.make_folder(place.parent)
    whole_files.save_arrays(place, arrays)
    logging.info('Kept the index in %s', place)
  except errors.UserError as error:
    logging.warning('The index is not kept: %s', error)
