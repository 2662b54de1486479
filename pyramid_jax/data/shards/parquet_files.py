"""Rows of parquet files at any place, by row groups that are kept a while.

A row group is the smallest part of such a file that can be read. With 100
images in each (what `datasets` writes), a row at random costs the reading of
100, unless its group is among those that are kept: up to `KEPT_BYTES`.
"""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import contextlib
import pathlib
import threading
from typing import Any

import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.files import bounded
from pyramid_jax.files import json_text
from pyramid_jax.files import retries


KEPT_BYTES = 512 << 20  # of the row groups in memory
_FEATURES = b'huggingface'  # where `datasets` describes the columns
_THREADS = 8


def library() -> Any:
  """Returns `pyarrow.parquet`, or raises a UserError that says what to do."""
  try:
    import pyarrow.parquet
  except ImportError as error:
    raise errors.UserError(
      f'config.data.name = parquet needs a library: {error}; install'
      " 'pyramid_jax[data]'."
    ) from error
  return pyarrow.parquet


def library_types() -> Any:
  """Returns `pyarrow.types`, see `library`."""
  library()
  import pyarrow.types

  return pyarrow.types


class Rows:
  """The rows of one or more files, in the order of the files.

  May be used by several threads, and by processes that got a pickled copy.

  Attributes:
    counts: the number of rows by file.
    columns: the names of the columns.
    features: what `datasets` says of columns, by their names; {} if nothing.
  """

  def __init__(self, paths: Sequence[pathlib.Path]):
    """Reads the footers of the files.

    Raises:
      UserError: a file that is no parquet, has other columns than the first,
        or a row group too large for the memory.
    """
    self._paths = list(paths)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      self._footers = list(pool.map(_footer, self._paths))
    first = self._footers[0].schema.to_arrow_schema()
    self.columns = tuple(first.names)
    for path, footer in zip(self._paths, self._footers, strict=True):
      names = tuple(footer.schema.to_arrow_schema().names)
      if names != self.columns:
        raise errors.UserError(
          f'{path} has the columns {", ".join(names)}, {self._paths[0]} has'
          f' {", ".join(self.columns)}.',
          errors.DATA,
        )
    self.schema = first
    self.features = _features(first.metadata or {})
    self.counts = [footer.num_rows for footer in self._footers]
    groups = [
      (i, g, footer.row_group(g))
      for i, footer in enumerate(self._footers)
      for g in range(footer.num_row_groups)
    ]
    for i, g, group in groups:
      if group.total_byte_size > limits.ROW_GROUP_BYTES:
        raise errors.UserError(
          f'{self._paths[i]}: row group {g} has {group.total_byte_size} bytes,'
          f' at most {limits.ROW_GROUP_BYTES} are read; write smaller ones.',
          errors.DATA,
        )
    self._groups = [(i, g) for i, g, _ in groups]
    lengths = [group.num_rows for _, _, group in groups]
    self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    self._kept = _Kept()

  def __len__(self) -> int:
    return int(self._starts[-1])

  def where(self, index: int) -> str:
    """Returns what messages call a row."""
    file, group, row = self._place(index)
    return f'{self._paths[file]}, row {row} of row group {group}'

  def row(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
    """Returns values by column; a struct has the parts that are asked for.

    Args:
      index: of the row.
      columns: their names, `COLUMN.PART` for a part of a struct.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is damaged.
    """
    file, group, row = self._place(index)
    path, footer = self._paths[file], self._footers[file]
    load = lambda: self._load(path, footer, group, columns)
    table = self._kept.get((file, group, *columns), load)
    return {name: table[name][row].as_py() for name in table.column_names}

  def _place(self, index: int) -> tuple[int, int, int]:
    place = int(np.searchsorted(self._starts, index, 'right')) - 1
    return *self._groups[place], index - int(self._starts[place])

  def _load(
    self, path: pathlib.Path, footer: Any, group: int, columns: Sequence[str]
  ) -> Any:
    def read() -> Any:
      with bounded.opened(path, limits.FILE_BYTES) as stream, _damage(path):
        opened = library().ParquetFile(stream, metadata=footer)
        return opened.read_row_group(group, list(columns), use_threads=False)

    return retries.repeat(read, path)

  def values(self, column: str) -> list[Any]:
    """Returns the values of a column of all rows, in their order.

    Raises:
      UserError: a damaged file.
    """
    found: list[Any] = []
    for path, footer in zip(self._paths, self._footers, strict=True):
      for group in range(footer.num_row_groups):
        try:
          table = self._load(path, footer, group, [column])
        except ValueError as error:
          what = f'{path}: row group {group} is {error}.'
          raise errors.UserError(what, errors.DATA) from error
        found += table[column].to_pylist()
    return found

  def distinct(self, column: str) -> list[Any]:
    """Returns the different numbers or texts of a column, None among them.

    Raises:
      UserError: a column of another type, with too many values, or damaged.
    """
    kinds = library_types()
    kind = self.schema.field(column).type
    if not (kinds.is_integer(kind) or kinds.is_string(kind)):
      raise errors.UserError(
        f'{self._paths[0]}: the column {column!r} is of the type'
        f' {str(kind)[:100]}, must be integers or strings.',
        errors.DATA,
      )
    found: set[Any] = set()
    for path, footer in zip(self._paths, self._footers, strict=True):
      for group in range(footer.num_row_groups):
        try:
          table = self._load(path, footer, group, [column])
        except ValueError as error:
          what = f'{path}: row group {group} is {error}.'
          raise errors.UserError(what, errors.DATA) from error
        found.update(table[column].unique().to_pylist())
      if len(found) > limits.VOCABULARY:
        raise errors.UserError(
          f'{path}: the column {column!r} has {len(found)} different values or'
          f' more, at most {limits.VOCABULARY} are read.',
          errors.DATA,
        )
    return sorted(found, key=lambda value: (value is not None, value))


class _Kept:
  """Tables by key, of which the oldest go once they are too many."""

  def __init__(self) -> None:
    self._tables: collections.OrderedDict[Any, Any] = collections.OrderedDict()
    self._bytes = 0
    self._lock = threading.Lock()
    self._loading: dict[Any, threading.Lock] = {}

  def __reduce__(self):
    return _Kept, ()

  def get(self, key: Any, load: Any) -> Any:
    """Returns the table of a key; of several threads one alone loads it."""
    with self._lock:
      if key in self._tables:
        self._tables.move_to_end(key)
        return self._tables[key]
      alone = self._loading.setdefault(key, threading.Lock())
    with alone:
      with self._lock:
        if key in self._tables:
          return self._tables[key]
      table = load()
      with self._lock:
        self._tables[key] = table
        self._bytes += table.nbytes
        while self._bytes > KEPT_BYTES and len(self._tables) > 1:
          _, oldest = self._tables.popitem(last=False)
          self._bytes -= oldest.nbytes
        self._loading.pop(key, None)
      return table


@contextlib.contextmanager
def _damage(path: pathlib.Path):
  """Makes a ValueError of what the library says of a damaged file."""
  import pyarrow

  try:
    yield
  except OSError as error:
    if errors.number(error) is None:  # What it says of damage is one, too.
      raise ValueError(f'damaged: {error}') from error
    raise
  except pyarrow.ArrowException as error:
    raise ValueError(f'damaged: {error}') from error


def _footer(path: pathlib.Path) -> Any:
  def read() -> Any:
    with bounded.opened(path, limits.FILE_BYTES) as stream, _damage(path):
      return library().read_metadata(stream)

  library()
  try:
    return retries.repeat(read, path)
  except OSError as error:
    code = errors.RESTART if errors.is_transient(error) else errors.MISSING
    raise errors.UserError(f'{path}: {errors.reason(error)}.', code) from error
  except ValueError as error:
    raise errors.UserError(
      f'{path}: no parquet, or {error}.', errors.DATA
    ) from error


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
  """Returns what `datasets` says of the columns; {} if nothing usable."""
  try:
    found = json_text.loads(metadata.get(_FEATURES, b'{}'))
    features = found['info']['features']
  except (ValueError, LookupError, TypeError):
    return {}
  return features if isinstance(features, dict) else {}
