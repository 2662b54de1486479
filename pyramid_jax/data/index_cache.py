"""Indices of large annotation files, kept between runs."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import json
import os
import pathlib
import tempfile
import zipfile

from absl import logging
import numpy as np


Arrays = dict[str, np.ndarray]
# Below this, reading the files again is faster than it is worth a cache.
MIN_BYTES = 16 << 20
_VERSION = 1


def folder() -> pathlib.Path:
  """Returns where indices are kept: never among the data itself."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'pyramid_jax'


def _path(files: Sequence[pathlib.Path], options: Mapping) -> pathlib.Path:
  stats = [
    (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
    for file in files
  ]
  key = json.dumps([_VERSION, stats, options], sort_keys=True)
  return folder() / f'{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz'


def load_or_build(
  files: Sequence[pathlib.Path], options: Mapping, build: Callable[[], Arrays]
) -> Arrays:
  """Returns `build()`, or what it returned for the same files and options.

  Files are the same if path, size and time of change are. The index of small
  files is not kept, nor where the folder cannot be written.

  Args:
    files: what `build` reads.
    options: what else it depends on; JSON values.
    build: makes the arrays, none of which holds Python objects.
  """
  if sum(file.stat().st_size for file in files) < MIN_BYTES:
    return build()
  path = _path(files, options)
  try:
    with np.load(path, allow_pickle=False) as file:
      return dict(file)
  except FileNotFoundError:
    pass
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    logging.warning('Ignored the damaged index %s: %s', path, error)
  logging.info('Indexing %s', ', '.join(map(str, files)))
  arrays = build()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as aside:
      np.savez(aside, allow_pickle=False, **arrays)
    os.replace(aside.name, path)
    logging.info('Kept the index in %s', path)
  except OSError as error:
    logging.warning('The index is not kept: %s', error)
  return arrays
