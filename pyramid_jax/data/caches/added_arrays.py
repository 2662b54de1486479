"""Readers whose batches have more arrays, computed beforehand or looked up."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Protocol
from typing import cast

import jax
import numpy as np

from pyramid_jax.data import identity
from pyramid_jax.data import prefetching
from pyramid_jax.data import reader as reader_lib


class Source(Protocol):
  """Where the arrays come from."""

  @property
  def made_by(self) -> Mapping[str, str]:
    """The hashes of pretrained parts that made them, by part."""

  def arrays(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays (B, ...) that a reader's batch gets."""

  def identity(self) -> identity.Identity:
    """Returns what they are made of, as `data.identity` has it."""


def reader_with(
  reader: reader_lib.Reader, source: Source
) -> 'ReaderWithArrays':
  """Returns a reader with the arrays of a source."""
  is_rowwise = isinstance(reader, prefetching.Rowwise)
  kind = RowsWithArrays if is_rowwise else ReaderWithArrays
  return kind(reader, source)


class ReaderWithArrays:
  """A reader whose batches have the arrays of a source, too.

  It is a `reader.Reader`; `made_by` is as in `manifests.check_makers`.
  """

  def __init__(self, reader: reader_lib.Reader, source: Source):
    self._reader, self._source = reader, source
    self.label_names = reader.label_names
    self.id_counts = reader.id_counts
    self.report = reader.report
    self.buckets = reader.buckets
    self.made_by = {**getattr(reader, 'made_by', {}), **source.made_by}

  def __len__(self) -> int:
    return len(self._reader)

  def batch(
    self, indices: np.ndarray, draws: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns the reader's batch with the arrays."""
    return self._added(self._reader.batch(indices, draws))

  def _added(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**batch, **self._source.arrays(batch)}

  def identity(self) -> identity.Identity:
    """Returns what the reader's examples and the arrays are made of."""
    return {**self._reader.identity(), **self._source.identity()}

  def finish(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns what the reader makes of a batch, and the arrays."""
    return self._reader.finish(batch)


class RowsWithArrays(ReaderWithArrays):
  """The same of a reader that is `prefetching.Rowwise`, and so is this."""

  def row(self, index: int, draw: np.uint64) -> dict[str, np.ndarray]:
    """Returns the arrays of the reader's example."""
    return self._rows.row(index, draw)

  def stacked(
    self, rows: Sequence[Mapping[str, np.ndarray]]
  ) -> dict[str, np.ndarray]:
    """Returns the batch of examples with the arrays."""
    return self._added(self._rows.stacked([dict(x) for x in rows]))

  @property
  def _rows(self) -> prefetching.Rowwise:
    return cast(prefetching.Rowwise, self._reader)
