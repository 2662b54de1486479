"""Where the samples of tar shards are, so that each can be read by itself.

The layout is that of webdataset: members that follow each other and agree up to
the first dot of their names are one sample, and what is behind the dot says
what a member is. Other members, and hidden ones, are left out. The index of a
shard of `index_cache.MIN_BYTES` and more is kept between runs for as long as
the size and the time of change of the shard stay the same; it takes 16 bytes a
sample in memory, 28 with captions.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import os
import pathlib
import tarfile
import time

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.shards import shard_rules
from pyramid_jax.data.storage import archives


_VERSION = 1
_SAY_SECS = 10.0  # between lines about the progress
_COLUMNS = {
  'image_start': np.int64,
  'image_size': np.int32,
  'text_start': np.int64,
  'text_size': np.int32,
  'label': np.int32,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
  """The N samples of S shards, in the order of the shards.

  Attributes:
    starts: (S + 1,) int64; shard s has samples starts[s]:starts[s + 1].
    columns: `_COLUMNS` by name, (N,) each; those of texts are (0,) without any.
    left_out: how many samples are not read, by one of `shard_rules.REASONS`.
  """

  starts: np.ndarray
  columns: dict[str, np.ndarray]
  left_out: dict[str, int]

  def __len__(self) -> int:
    return int(self.starts[-1])

  def shard(self, index: int) -> int:
    """Returns the shard of a sample."""
    return int(np.searchsorted(self.starts, index, 'right')) - 1


def samples(
  members: Iterable[archives.Member],
) -> Iterator[dict[str, archives.Member]]:
  """Yields the members of samples by suffix, in lower case.

  Raises:
    ValueError: a sample has two members of one name.
  """
  key = None
  found: dict[str, archives.Member] = {}
  for member in members:
    folder, slash, name = member.name.rpartition('/')
    stem, dot, suffix = name.partition('.')
    if not stem or not dot:
      continue
    if (folder, slash, stem) != key:
      if found:
        yield found
      key, found = (folder, slash, stem), {}
    if suffix.lower() in found:
      raise ValueError(f'{member.name[:200]!r} is there twice')
    found[suffix.lower()] = member
  if found:
    yield found


def load(
  paths: Sequence[pathlib.Path],
  rules: shard_rules.Rules,
  cache: pathlib.Path,
  threads: int,
) -> Samples:
  """Returns the samples of shards; reads the headers of those that are new.

  Args:
    paths: of the shards, at least one.
    rules: which samples, and what of them.
    cache: see `index_cache.folder`.
    threads: that read headers.

  Raises:
    UserError: a shard that is no tar, is damaged or cannot be read.
  """
  found: list[index_cache.Arrays] = [{}] * len(paths)
  # Processes of a host that begin at different shards share the work.
  first = os.getpid() % len(paths)
  order = [*range(first, len(paths)), *range(first)]
  said = time.monotonic()
  index = lambda i: _load_one(paths[i], rules, cache)
  with futures.ThreadPoolExecutor(threads) as pool:
    results = zip(order, pool.map(index, order), strict=True)
    for done, (i, arrays) in enumerate(results, 1):
      found[i] = arrays
      if time.monotonic() - said > _SAY_SECS:
        said = time.monotonic()
        logging.info('Indexed %d of %d shards', done, len(paths))
  counts = [len(arrays['label']) for arrays in found]
  left_out = np.sum([arrays['left_out'] for arrays in found], axis=0)
  reasons = zip(shard_rules.REASONS, left_out.tolist(), strict=True)
  return Samples(
    starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    columns={
      key: np.concatenate([arrays[key] for arrays in found]) for key in _COLUMNS
    },
    left_out={reason: count for reason, count in reasons if count},
  )


def _load_one(
  path: pathlib.Path, rules: shard_rules.Rules, cache: pathlib.Path
) -> index_cache.Arrays:
  """Returns the columns of a shard."""
  options = {'of': 'shard', 'version': _VERSION, **rules.options}
  try:
    return index_cache.of_files(
      [path], options, lambda: _index(path, rules), cache
    )
  except OSError as error:
    code = errors.RESTART if errors.is_transient(error) else errors.MISSING
    raise errors.UserError(f'{path}: {errors.reason(error)}.', code) from error


def _index(path: pathlib.Path, rules: shard_rules.Rules) -> index_cache.Arrays:
  """Reads the headers of a shard, and what the rules ask for."""
  rows: list[shard_rules.Row] = []
  left_out = dict.fromkeys(shard_rules.REASONS, 0)
  size = path.stat().st_size
  try:
    read = archives.forwards(archives.File(path, True), size)
    load = lambda member: read(member.start, member.stored)
    for sample in samples(archives.members_of_tar(read, size)):
      try:
        rows.append(rules.row(sample, load))
      except shard_rules.LeftOut as reason:
        left_out[str(reason)] += 1
  except (ValueError, tarfile.TarError) as error:
    raise errors.UserError(f'{path}: {error}.', errors.DATA) from error
  texts = [row.text for row in rows if row.text is not None]
  columns = {
    'image_start': [row.image.start for row in rows],
    'image_size': [row.image.size for row in rows],
    'text_start': [text.start for text in texts],
    'text_size': [text.size for text in texts],
    'label': [row.label for row in rows],
  }
  return {
    **{key: np.array(x, _COLUMNS[key]) for key, x in columns.items()},
    'left_out': np.array(list(left_out.values()), np.int64),
  }
