"""Arrays that grow by rows on disk, and are never in memory as a whole.

A folder has one `FIRST_LAST.npz` for the rows FIRST to LAST - 1. It appears
under its name when it is whole, so whatever ends the process, what lies there
are rows that were added, and the same rows can be added after them.
"""

from collections.abc import Callable
from collections.abc import Mapping
import operator
import re
from typing import IO
from typing import TypeVar
import zipfile

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax.files import arrays as arrays_lib
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files


_PART = re.compile(r'(\d{8,})_(\d{8,})\.npz')
_DATE = (1980, 1, 1, 0, 0, 0)  # of members: files do not depend on the clock
_MODE = 0o644 << 16  # of members

Arrays = Mapping[str, np.ndarray]
T = TypeVar('T')


class ArrayParts:
  """The parts in a folder, which nobody else writes.

  An OSError says that the folder cannot be read or written.
  """

  def __init__(self, folder: stores.Path):
    """Takes the parts that follow each other from row 0; drops all else."""
    self._folder = folder
    self._parts: list[tuple[int, int]] = []
    found = {}
    for name in stores.names(folder):
      match = _PART.fullmatch(name)
      if match is None:
        stores.remove(folder / name)
      else:
        found[int(match[1])] = int(match[2])
    while self.count in found and self._is_whole(found[self.count]):
      self._parts.append((self.count, found[self.count]))
    for part in set(found.items()) - set(self._parts):
      stores.remove(self._path(part))

  @property
  def count(self) -> int:
    """The number of rows."""
    return self._parts[-1][1] if self._parts else 0

  def _is_whole(self, last: int) -> bool:
    path = self._path((self.count, last))
    try:
      retries.repeat(lambda: arrays_lib.contents(path), path)
    except ValueError as error:
      logging.warning('%s: %s; it is made again', path, error)
      return False
    return last > self.count

  def _path(self, part: tuple[int, int]) -> stores.Path:
    return self._folder / f'{part[0]:08d}_{part[1]:08d}.npz'

  def add(self, arrays: Arrays) -> None:
    """Adds rows (B, ...) of all arrays; on the disk when it returns."""
    whole_files.make_folder(self._folder, within=self._folder.parent)
    part = self.count, self.count + len(next(iter(arrays.values())))
    whole_files.save_arrays(self._path(part), arrays)
    self._parts.append(part)

  def truncate(self, count: int) -> None:
    """Drops the parts that reach beyond a number of rows."""
    while self.count > count:
      stores.remove(self._path(self._parts.pop()))

  def remove(self) -> None:
    """Drops all parts and the folder."""
    if self._folder.is_dir():
      stores.remove_folder(self._folder)
    self._parts = []

  def read(self, first: int, last: int) -> dict[str, np.ndarray]:
    """Returns the rows of all arrays from `first` to `last` - 1."""
    columns: dict[str, list[np.ndarray]] = {}
    for part in self._parts:
      low, high = max(first, part[0]), min(last, part[1])
      if low < high:
        for name, rows in _read(self._path(part), dict).items():
          cut = rows[low - part[0] : high - part[0]]
          columns.setdefault(name, []).append(cut)
    return {name: np.concatenate(parts) for name, parts in columns.items()}

  def write_npz(self, path: stores.Path, prefix: str) -> None:
    """Writes the arrays whose names have a prefix, without it, as np.savez.

    Equal rows give equal bytes. Texts become as wide as the widest one.
    """
    whole_files.save(path, lambda file: self._write_archive(file, prefix))

  def _write_archive(self, file: IO[bytes], prefix: str) -> None:
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
      for name, (shape, dtype) in self._headers().items():
        if name.startswith(prefix):
          member = zipfile.ZipInfo(f'{name.removeprefix(prefix)}.npy', _DATE)
          member.external_attr = _MODE
          with archive.open(member, 'w', force_zip64=True) as out:
            self._write_array(out, name, shape, dtype)

  def _write_array(
    self, out: IO[bytes], name: str, shape: tuple[int, ...], dtype: np.dtype
  ) -> None:
    header = {
      'descr': np.lib.format.dtype_to_descr(dtype),
      'fortran_order': False,
      'shape': (self.count, *shape),
    }
    np.lib.format.write_array_header_1_0(out, header)
    for part in self._parts:
      rows = _read(self._path(part), operator.itemgetter(name))
      out.write(np.ascontiguousarray(rows, dtype).tobytes())

  def _headers(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns the shape of a row and the type of each array."""
    found = {
      name: (rows.shape[1:], rows.dtype)
      for name, rows in self.read(0, 1).items()
    }
    texts = [name for name, (_, dtype) in found.items() if dtype.kind in 'SU']
    for part in self._parts if texts else ():
      dtypes = lambda file: {name: file[name].dtype for name in texts}
      for name, other in _read(self._path(part), dtypes).items():
        shape, dtype = found[name]
        found[name] = shape, np.promote_types(dtype, other)
    return found


def _read(path: stores.Path, function: Callable[[Arrays], T]) -> T:
  """Returns what a function takes of a part; damage is a UserError."""

  def once() -> T:
    with arrays_lib.opened(path) as file:
      return function(file)

  try:
    return retries.repeat(once, path)
  except ValueError as error:
    raise errors.UserError(
      f'{path} is damaged ({error}): delete it and run the same command again.',
      errors.DATA,
    ) from error
