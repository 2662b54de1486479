"""The shorter sides of the images of a set, found in their headers and kept."""

from collections.abc import Sequence
from concurrent import futures
import hashlib
import io
import json
import pathlib

import numpy as np

from pyramid_jax import errors
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import image_stores


_VERSION = 1
_HEAD = 64 << 10  # bytes in which the header of nearly every image ends
_LEAST = 10_000  # images whose sides are worth to be kept
# A damaged image passes every filter, and is counted when it is read.
DAMAGED = np.iinfo(np.int32).max


def _side(store: image_stores.Store, row: int) -> int:
  """Returns the shorter side of an image in px, or `DAMAGED`."""
  where = store.where(row)
  for load in (lambda: store.head(row, _HEAD), lambda: store.load(row)):
    try:
      return min(images.size_of(io.BytesIO(load()), where))
    except images.BrokenImage as error:
      if errors.is_transient(error):
        raise errors.UserError(f'{error}.', errors.RESTART) from error
  return DAMAGED


def shorter(
  store: image_stores.Store,
  rows: Sequence[int],
  cache: pathlib.Path,
  workers: int,
) -> np.ndarray:
  """Returns the shorter sides in px of images, (N,) int32.

  Those of many images are kept until one of them has another name or size.

  Args:
    store: the files.
    rows: the positions of N images in it.
    cache: see `index_cache.folder`.
    workers: threads that read headers.

  Raises:
    UserError: storage fails.
  """
  named = json.dumps(store.sizes(rows), sort_keys=True)
  of = np.frombuffer(hashlib.sha256(named.encode()).digest(), np.uint8)

  def measured() -> index_cache.Arrays:
    with futures.ThreadPoolExecutor(workers) as pool:
      sides = list(pool.map(lambda row: _side(store, row), rows))
    return {'sides': np.array(sides, np.int32), 'of': of}

  found = index_cache.load_or_build(
    cache,
    ['sides', _VERSION, store.where(rows[0])],
    measured,
    is_current=lambda arrays: np.array_equal(arrays['of'], of),
    is_kept=lambda arrays: len(arrays['sides']) >= _LEAST,
  )
  return found['sides']
