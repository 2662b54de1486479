"""Which rows of parquet tables are read, by their columns of metadata.

The filters are those of `shard_rules`, and the probability that an image is
unsafe, by which the training data of Stable Diffusion 2 were cut down
(`punsafe`, LAION-5B). A row without a number, or with NaN, does not pass.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data.shards import parquet_files
from pyramid_jax.data.storage import annotation_files


# Names that a column may have, by what img2dataset and LAION call it.
WIDTH, HEIGHT = ('width', 'WIDTH'), ('height', 'HEIGHT')
SIMILARITY, NSFW, UNSAFE = ('similarity',), ('NSFW', 'nsfw'), ('punsafe',)
Values = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filter:
  """A reason to leave rows out.

  Attributes:
    reason: a word for reports.
    field: the field of `config.data` that sets it, and its value.
    columns: the names of each column that it reads, any of which serves.
    passes: the values of these columns (N,) -> (N,) bool.
  """

  reason: str
  field: tuple[str, Any]
  columns: tuple[tuple[str, ...], ...]
  passes: Callable[..., np.ndarray]


def of(config: ConfigDict) -> list[Filter]:
  """Returns the filters that `config.data` sets, in the order of the tests."""
  d = config.data
  found = {
    'low_similarity': Filter(
      reason='low_similarity',
      field=('min_similarity', d.min_similarity),
      columns=(SIMILARITY,),
      passes=lambda x: _numbers(x) >= d.min_similarity,
    ),
    'nsfw': Filter(
      reason='unsafe',
      field=('nsfw', tuple(d.nsfw)),
      columns=(NSFW,),
      passes=lambda x: np.array([value in d.nsfw for value in x], bool),
    ),
    'punsafe': Filter(
      reason='unsafe',
      field=('max_unsafe', d.max_unsafe),
      columns=(UNSAFE,),
      passes=lambda x: _numbers(x) <= d.max_unsafe,
    ),
    'too_small': Filter(
      reason='too_small',
      field=('min_side', d.min_side),
      columns=(WIDTH, HEIGHT),
      passes=lambda x, y: np.minimum(_numbers(x), _numbers(y)) >= d.min_side,
    ),
  }
  is_set = {
    'low_similarity': d.min_similarity > -1,
    'nsfw': bool(d.nsfw),
    'punsafe': d.max_unsafe < 1,
    'too_small': d.min_side > 0,
  }
  return [rule for name, rule in found.items() if is_set[name]]


def _numbers(values: list[Any]) -> np.ndarray:
  """Returns values (N,) float64, NaN for what is no number."""
  is_number = annotation_files.is_number
  return np.array([x if is_number(x) else np.nan for x in values], np.float64)


def passing(
  config: ConfigDict, rows: parquet_files.Rows, where: object
) -> tuple[np.ndarray, dict[str, int]]:
  """Returns the rows (M,) int64 that pass, and how many do not, by reason.

  A row that several filters leave out counts for the first. `where` names the
  files.

  Raises:
    UserError: a filter whose column is not there, or a damaged file.
  """
  kept = np.ones(len(rows), bool)
  left_out: dict[str, int] = {}
  for rule in of(config):
    columns = [_column(rule, names, rows, where) for names in rule.columns]
    passes = rule.passes(*(rows.values(column) for column in columns))
    count = int((kept & ~passes).sum())
    if count:
      left_out[rule.reason] = left_out.get(rule.reason, 0) + count
    kept &= passes
  return np.flatnonzero(kept), left_out


def _column(
  rule: Filter,
  names: tuple[str, ...],
  rows: parquet_files.Rows,
  where: object,
) -> str:
  """Returns the name that a column has, or raises a UserError."""
  found = next((name for name in names if name in rows.columns), None)
  if found is None:
    field, value = rule.field
    raise errors.UserError(
      f'config.data.{field} is {value!r}, which needs the column'
      f' {" or ".join(names)}; {where} have {", ".join(rows.columns)}.',
      errors.DATA,
    )
  return found
