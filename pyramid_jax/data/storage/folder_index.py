"""The images below a folder, known again without a walk over all of it.

Of a large folder the paths, sizes and times of change are kept (see
`index_cache`). They hold as long as no folder below has another time of change,
as it gets where a file is added, removed, renamed or replaced by one of another
name, and as long as none of `SAMPLE` files has another size or time. What is
not noticed: single files whose content was overwritten in place, and a file
system that does not note the times of folders.

Objects of a store are listed anew: one request lists thousands.
"""

from collections.abc import Callable
from collections.abc import Sequence
from concurrent import futures
import functools
import hashlib
import os
import pathlib
import time

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import identity
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import listing
from pyramid_jax.files import retries
from pyramid_jax.files import stores


MIN_FILES = 10_000  # Fewer are walked over in less than 0.1 s.
SAMPLE = 256  # files that are looked at, evenly spread
# A folder that changed so shortly before may change again at the same time, as
# coarse file systems tell it; it is not kept.
_SETTLED_NS = 3 * 10**9
_THREADS = 8
_VERSION = 1
_END = '\0'  # what no path has


class Folder:
  """The images below a folder.

  Attributes:
    files: their paths, sorted.
  """

  def __init__(
    self, base: pathlib.Path, cache: pathlib.Path, arrays: index_cache.Arrays
  ):
    """Takes the arrays of `_built`, with a key among the indices of `cache`."""
    self.files = _strings(arrays['files'])
    self._base, self._cache, self._arrays = base, cache, arrays

  def sizes(self, names: Sequence[str]) -> dict[str, int | None]:
    """Returns the bytes of some of the files, None for one that is gone.

    Raises:
      OSError: the file system does not say.
    """
    if not _is_kept(self._arrays):
      return identity.sizes(self._base, names)
    known = dict(zip(self.files, self._arrays['sizes'].tolist(), strict=True))
    if names is self.files:
      return known
    return {name: known[name] for name in names}

  def pixels(
    self, names: Sequence[str], measure: Callable[[], np.ndarray]
  ) -> np.ndarray:
    """Returns heights and widths (N, 2) of some of the files.

    Args:
      names: the N paths.
      measure: reads the sizes of these from their headers.
    """
    if not _is_kept(self._arrays):
      return measure()
    hashed = hashlib.sha256(_joined(names))
    for key in ('files', 'sizes', 'times'):
      hashed.update(self._arrays[key].tobytes())
    of = np.frombuffer(hashed.digest(), np.uint8)
    found = index_cache.load_or_build(
      self._cache,
      ['pixels', _VERSION, os.path.realpath(self._base)],
      lambda: {'pixels': measure(), 'of': of},
      is_current=lambda arrays: np.array_equal(arrays['of'], of),
    )
    return found['pixels']


def find_images(base: pathlib.Path, name: str, cache: pathlib.Path) -> Folder:
  """Returns the images below a folder, at least one.

  What is left out is logged by its kind, see `listing.listed`.

  Args:
    base: the folder.
    name: what the errors call it.
    cache: see `index_cache.folder`.

  Raises:
    UserError: there are no images, or a folder cannot be listed.
  """
  build = functools.partial(_built, base)
  if stores.is_remote(base):
    arrays = build()
  else:
    arrays = index_cache.load_or_build(
      cache,
      ['folder', _VERSION, os.path.realpath(base), *images.SUFFIXES],
      build,
      functools.partial(_is_current, base),
      _is_kept,
    )
  found = Folder(base, cache, arrays)
  (report,) = _strings(arrays['report'])
  listing.say(base, len(found.files), report, bool(arrays['is_calm']))
  listing.check(found.files, name)
  return found


def _built(base: pathlib.Path) -> index_cache.Arrays:
  """Returns the arrays of an index: texts as UTF-8, times in ns."""
  started = time.time_ns()
  found = listing.listed(base)
  times = np.fromiter(found.folders.values(), np.int64, len(found.folders))
  arrays = {
    'files': _packed(found.files),
    'folders': _packed(list(found.folders)),
    'changed': times,
    'report': _packed([found.report]),
    'is_calm': np.array(found.is_calm),
    'sizes': np.zeros(0, np.int64),
    'times': np.zeros(0, np.int64),
  }
  is_settled = (
    times.size and 0 < times.min() <= times.max() < started - _SETTLED_NS
  )
  if len(found.files) >= MIN_FILES and is_settled:
    try:
      sizes, times = _stats(base, found.files).T
      arrays |= {'sizes': sizes, 'times': times}
    except OSError as error:
      logging.warning('The index is not kept: %s', errors.reason(error))
  return arrays


def _is_kept(arrays: index_cache.Arrays) -> bool:
  """Whether an index has the sizes of its files, which small ones lack."""
  return bool(arrays['sizes'].size)


def _is_current(base: pathlib.Path, arrays: index_cache.Arrays) -> bool:
  """Whether a folder is as an index says, see the module."""
  try:
    changed = _stats(base, _strings(arrays['folders']))[:, 1]
    if not np.array_equal(changed, arrays['changed']):
      return False
    files = _strings(arrays['files'])
    rows = np.linspace(0, len(files) - 1, SAMPLE).astype(np.int64)
    sizes, times = _stats(base, [files[i] for i in rows]).T
  except OSError:
    return False
  return np.array_equal(sizes, arrays['sizes'][rows]) and np.array_equal(
    times, arrays['times'][rows]
  )


def _stats(base: pathlib.Path, names: Sequence[str]) -> np.ndarray:
  """Returns the bytes and the times of change (N, 2) of what is in a folder.

  Raises:
    OSError: something is not there, or cannot be looked at.
  """
  prefix = os.path.join(os.fspath(base), '')

  def of(chunk: Sequence[str]) -> list[tuple[int, int]]:
    found = (_stat(prefix + name) for name in chunk)
    return [(stat.st_size, stat.st_mtime_ns) for stat in found]

  size = -(-len(names) // _THREADS)
  chunks = [names[i : i + size] for i in range(0, len(names), max(size, 1))]
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    rows = [row for part in pool.map(of, chunks) for row in part]
  return np.array(rows, np.int64).reshape(-1, 2)


def _stat(path: str) -> os.stat_result:
  try:
    return os.stat(path)
  except OSError:
    return retries.repeat(functools.partial(os.stat, path), path)


def _joined(texts: Sequence[str]) -> bytes:
  return os.fsencode(''.join(f'{text}{_END}' for text in texts))


def _packed(texts: Sequence[str]) -> np.ndarray:
  """Returns texts without `_END` as an array of bytes."""
  return np.array(bytearray(_joined(texts)), np.uint8)


def _strings(packed: np.ndarray) -> list[str]:
  """Returns the texts of `_packed`."""
  return os.fsdecode(packed.tobytes()).split(_END)[:-1]
