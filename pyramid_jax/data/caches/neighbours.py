"""The nearest neighbours of the images of a split, found beforehand.

`config.condition.neighbour_rows` names those of training,
`config.condition.eval_neighbour_rows` those of the other splits: an .npz with
`rows` (M, k) int32, for each image of the reader in its order the rows of its
neighbours in the index, nearest first, and `index`, the digest of that index.
`pyramid_jax.commands.find_neighbours` writes it. Of the k the first
`config.condition.neighbours` serve.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.conditioning import retrieval
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.caches import added_arrays
from pyramid_jax.data.caches import neighbour_index
from pyramid_jax.files import arrays as arrays_lib
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files


# Readers that number their examples by their places.
READERS = (
  *('image_folder', 'imagenet', 'celebahq', 'ffhq', 'lsun', 'places'),
  *('parquet', 'tar_shards'),
)
_ROWS, _INDEX = 'rows', 'index'


def field(split: str) -> str:
  """Returns the name of the field with the neighbours of a split."""
  name = 'neighbour_rows' if split == 'train' else 'eval_neighbour_rows'
  return f'condition.{name}'


def without(config: ConfigDict) -> ConfigDict:
  """Returns the config of the images alone.

  Raises:
    ValueError: a reader whose images have no places.
  """
  name = config.data.name
  if name not in READERS:
    raise ValueError(
      f'config.data.name is {name!r}, must be one of {", ".join(READERS)} for'
      f' config.condition.task = {retrieval.TASK!r}'
    )
  changed = config_lib.from_json(config_lib.to_json(config))
  with changed.unlocked():
    changed.condition.task = 'none'
  return changed


def missing_inputs(config: ConfigDict, splits: Iterable[str]) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  lines = neighbour_index.missing_inputs(config.condition.neighbour_index)
  for name in dict.fromkeys(map(field, splits)):
    given = config[name]
    what = f'neighbours of the images, config.{name}'
    if not given:
      lines.append(f'{what} (is empty)')
    elif line := files.missing(given, f'config.{name}'):
      lines.append(line)
  return lines


def write(path: stores.Path, rows: np.ndarray, digest: str) -> None:
  """Writes the neighbours (M, k) of a split."""
  arrays = {_ROWS: rows.astype(np.int32), _INDEX: np.array(digest)}
  whole_files.save_arrays(path, arrays)


class Neighbours:
  """The embeddings of the neighbours of the images of a split.

  It is an `added_arrays.Source`.
  """

  made_by: Mapping[str, str] = {}

  def __init__(self, config: ConfigDict, split: str, count: int):
    """Reads the index and the rows of a split with `count` images.

    Raises:
      UserError: a file that is damaged, of another index, or of another number
        of images or neighbours.
    """
    c, name = config.condition, field(split)
    self._path = files.local(config[name], f'config.{name}')
    self._index = neighbour_index.NeighbourIndex(c.neighbour_index, c.dim)
    rows, digest = _read(self._path)
    if digest != self._index.digest:
      raise errors.UserError(
        f'{self._path} (config.{name}) has the neighbours in another index than'
        f' {c.neighbour_index} ({neighbour_index.FIELD}).',
        errors.DATA,
      )
    if len(rows) != count or rows.shape[1] < c.neighbours:
      raise errors.UserError(
        f'{self._path} (config.{name}) has {rows.shape[1]} neighbours of'
        f' {len(rows)} images, needed are {c.neighbours} of the {count} of'
        f' {split}.',
        errors.DATA,
      )
    self._rows = rows[:, : c.neighbours]

  def arrays(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns `neighbours` (B, k, D) float32 of the images of a batch."""
    return {retrieval.KEY: self._index.vectors(self._rows[batch['id']])}

  def identity(self) -> identity.Identity:
    """Returns the index, and the file with the rows."""
    described = identity.of_files({self._path.name: self._path})
    return {retrieval.KEY: {_INDEX: self._index.digest, **described}}


def _read(path: Any) -> tuple[np.ndarray, str]:
  """Returns the rows (M, k) of a file, and the digest of their index."""
  try:
    with arrays_lib.opened(path) as archive:
      rows, digest = archive[_ROWS], str(archive[_INDEX])
    if rows.ndim != 2 or rows.dtype != np.int32:
      raise ValueError(f'rows are {rows.dtype} of the shape {rows.shape}')
  except (OSError, ValueError, KeyError) as error:
    raise errors.UserError(
      f'{path}: no neighbours ({errors.shown(str(error))}); python -m'
      ' pyramid_jax.commands.find_neighbours writes them.',
      errors.DATA,
    ) from error
  return rows, digest


def reader_of(
  config: ConfigDict, split: str, reader: reader_lib.Reader
) -> reader_lib.Reader:
  """Returns a reader with the neighbours of its images.

  Raises:
    UserError: see `Neighbours`.
  """
  found = Neighbours(config, split, len(reader))
  return added_arrays.reader_with(reader, found)
