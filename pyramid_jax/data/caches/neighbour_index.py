"""Embeddings of images by CLIP, and those of them that are nearest to others.

An index is an .npz with `embedding` (N, D), or a folder of such files in the
order of their names, as CompVis/latent-diffusion distributes those of Open
Images and ArtBench (scripts/knn2img.py: Searcher); other arrays in them are not
read. Neighbours are those of the largest cosine, found by comparing with all.
"""

import hashlib
import pathlib

import numpy as np

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.files import arrays as arrays_lib
from pyramid_jax.files import stores


FIELD = 'config.condition.neighbour_index'
EMBEDDING = 'embedding'
_CHUNK = 65_536  # embeddings that are compared at a time
_SAMPLED = 256  # embeddings that the digest of an index is made of


def load(path: pathlib.Path, name: str) -> np.ndarray:
  """Returns the embeddings (N, D), floats, of an .npz.

  Args:
    path: the file.
    name: what messages call it.

  Raises:
    UserError: it has none, or some that are zero or not finite.
  """
  try:
    with arrays_lib.opened(path) as archive:
      found = archive[EMBEDDING] if EMBEDDING in archive else np.zeros(0)
  except (OSError, ValueError) as error:
    raise errors.UserError(f'{path} ({name}): {error}.', errors.DATA) from error
  if found.ndim != 2 or found.dtype.kind != 'f' or not found.size:
    raise errors.UserError(
      f'{path} ({name}) must have {EMBEDDING!r}, floats of the shape (N, D);'
      f' got {found.dtype} of the shape {found.shape}.',
      errors.DATA,
    )
  lengths = _lengths(found)
  if not (np.isfinite(lengths) & (lengths > 0)).all():
    bad = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
    raise errors.UserError(
      f'{path} ({name}): the embedding {bad} is zero or not finite.',
      errors.DATA,
    )
  return found


def _lengths(vectors: np.ndarray) -> np.ndarray:
  """Returns the norms (N,) float32."""
  parts = [
    np.linalg.norm(vectors[i : i + _CHUNK].astype(np.float32), axis=1)
    for i in range(0, len(vectors), _CHUNK)
  ]
  return np.concatenate(parts)


def unit(vectors: np.ndarray) -> np.ndarray:
  """Returns vectors (..., D) with the length 1, float32."""
  wide = vectors.astype(np.float32)
  return wide / np.linalg.norm(wide, axis=-1, keepdims=True)


class NeighbourIndex:
  """The embeddings of an index.

  Attributes:
    width: D.
    digest: of the number of embeddings and of 256 of them, evenly spread.
  """

  def __init__(self, given: str, width: int):
    """Reads an index.

    Args:
      given: the .npz or the folder.
      width: the D that is needed.

    Raises:
      UserError: a file that is missing or damaged, or another width.
    """
    paths = _paths(given)
    self._parts = [load(path, FIELD) for path in paths]
    for path, part in zip(paths, self._parts, strict=True):
      if part.shape[1] != width:
        raise errors.UserError(
          f'{path} ({FIELD}) has embeddings of the width {part.shape[1]}, must'
          f' be config.condition.dim = {width}.',
          errors.DATA,
        )
    self.width = width
    ends = np.cumsum([len(part) for part in self._parts])
    self._starts = np.concatenate([[0], ends])
    some = np.linspace(0, len(self) - 1, min(len(self), _SAMPLED)).astype(int)
    hashed = hashlib.sha256(f'{len(self)} '.encode())
    hashed.update(self.vectors(some).tobytes())
    self.digest = hashed.hexdigest()

  def __len__(self) -> int:
    return int(self._starts[-1])

  def vectors(self, rows: np.ndarray) -> np.ndarray:
    """Returns the unit vectors (..., D) float32 of rows (...)."""
    flat = np.asarray(rows).ravel()
    found = np.empty((len(flat), self.width), np.float32)
    which = np.searchsorted(self._starts, flat, side='right') - 1
    for part in np.unique(which):
      chosen = which == part
      places = flat[chosen] - self._starts[part]
      found[chosen] = unit(self._parts[part][places])
    return found.reshape(*np.shape(rows), self.width)

  def search(self, queries: np.ndarray, count: int) -> np.ndarray:
    """Returns the rows (Q, count) of the largest cosines, these first.

    Of equal ones the first rows come first. `queries` are (Q, D).

    Raises:
      UserError: fewer embeddings than are asked for.
    """
    if count > len(self):
      raise errors.UserError(
        f'{count} neighbours were asked for, {FIELD} has {len(self)}.',
        errors.DATA,
      )
    wanted = unit(queries)
    best = np.zeros((len(wanted), 0), np.int64)
    scores = np.zeros((len(wanted), 0), np.float32)
    for start in range(0, len(self), _CHUNK):
      rows = np.arange(start, min(len(self), start + _CHUNK))
      here = wanted @ self.vectors(rows).T
      best = np.concatenate([best, np.broadcast_to(rows, here.shape)], axis=1)
      scores = np.concatenate([scores, here], axis=1)
      order = np.argsort(-scores, axis=1, kind='stable')[:, :count]
      best = np.take_along_axis(best, order, axis=1)
      scores = np.take_along_axis(scores, order, axis=1)
    return best


def _paths(given: str) -> list[pathlib.Path]:
  """Returns the files of an index."""
  path = files.local(given, FIELD)
  if not path.is_dir():
    return [path]
  found = [x for x in sorted(stores.names(path)) if x.endswith('.npz')]
  if not found:
    raise errors.UserError(f'{path} ({FIELD}) has no .npz.', errors.MISSING)
  return [path / name for name in found]


def missing_inputs(given: str) -> list[str]:
  """Returns 'path (what it is)' of an index that is not there."""
  if not given:
    return [f'embeddings of images ({FIELD} is empty)']
  line = files.missing(given, FIELD)
  return [line] if line else []
