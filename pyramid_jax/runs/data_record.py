"""Which data a run was trained with: in its checkpoints, and by name.

Every checkpoint keeps `identity.facts` of both splits: counts and hashes.
`data_index.json.gz` has the entries themselves, so that a message can name what
changed; it counts only where its hash is that of the checkpoint.
"""

from collections.abc import Mapping
import dataclasses
import gzip
import json
from typing import Any
import zlib

from absl import logging

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data import identity as identity_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.files import json_text
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.runs import checkpoints


FILE = 'data_index.json.gz'
TRAIN = 'train'
_RECORD = 'data'  # in the record of a checkpoint
_WHICH = {TRAIN: 'training data', 'val': 'validation data'}
_LEVEL = 1  # of the compression: fast

Identities = Mapping[str, identity_lib.Identity]


@dataclasses.dataclass(frozen=True)
class DataRecord:
  """The data of a run, by split."""

  splits: Identities
  facts: Mapping[str, identity_lib.Facts]

  @classmethod
  def of(cls, **readers: reader_lib.Reader) -> 'DataRecord':
    """Asks the readers of splits.

    Raises:
      OSError: a file cannot be read.
    """
    splits = {split: reader.identity() for split, reader in readers.items()}
    facts = {split: identity_lib.facts(x) for split, x in splits.items()}
    return cls(splits, facts)

  @property
  def record(self) -> dict[str, Any]:
    """What a checkpoint keeps, see `checkpoints.Checkpoints`."""
    return {_RECORD: self.facts}

  def check(self, workdir: stores.Path, step: int, allow_change: bool) -> None:
    """Compares with the data of a checkpoint.

    Other validation data change scores and no parameter: a warning. So are
    other training data, if that is allowed. A checkpoint that says nothing
    about its data is taken as it is.

    Raises:
      UserError: the training data are not those of the checkpoint.
    """
    record = checkpoints.record(workdir, step)
    if _RECORD not in record:
      logging.info('step %d does not say with which data; now it is kept', step)
    for text in self._changes(workdir, step, record, allow_change):
      logging.warning('%s', text)

  def check_newest(self, workdir: stores.Path, allow_change: bool) -> None:
    """Compares with the newest checkpoint that can be read, see `check`.

    This is early and gives no warnings; which checkpoint serves is known when
    it is restored.
    """
    for step in checkpoints.steps(workdir):
      try:
        record = checkpoints.record(workdir, step)
      except errors.UserError:  # Restoring it says so.
        continue
      self._changes(workdir, step, record, allow_change)
      return

  def _changes(
    self,
    workdir: stores.Path,
    step: int,
    record: Mapping[str, Any],
    allow_change: bool,
  ) -> list[str]:
    """Returns what changed since a step; raises if it must not."""
    was = record.get(_RECORD, {})
    listed = _read(workdir / FILE) if was not in ({}, self.facts) else {}
    texts = []
    for split, facts in self.facts.items():
      before = was.get(split, {})
      known = {
        part: entries
        for part, entries in listed.get(split, {}).items()
        if identity_lib.facts({part: entries}).get(part) == before.get(part)
      }
      lines = identity_lib.differences(before, facts, known, self.splits[split])
      if not lines:
        continue
      text = (
        f'the {_WHICH[split]} are not those of step {step} in {workdir}:'
        f' {"; ".join(lines)}'
      )
      if split == TRAIN and not allow_change:
        raise errors.UserError(
          f'{text}. Put them back, or pass --config.data.allow_change to go on'
          ' with these: the result is then not that of an uninterrupted run.',
          errors.DATA,
        )
      texts.append(text)
    return texts

  def save(self, workdir: stores.Path) -> None:
    """Writes the entries; parts beyond the limit of a file are left out."""
    texts = []
    room = limits.JSON_BYTES
    for split, parts in self.splits.items():
      kept = {}
      for part, entries in sorted(parts.items(), key=lambda x: len(x[1])):
        text = json.dumps(entries, sort_keys=True)
        if len(text) < room // 2:
          kept[part] = text
          room -= len(text)
      inner = ','.join(f'{json.dumps(k)}:{x}' for k, x in kept.items())
      texts.append(f'{json.dumps(split)}:{{{inner}}}')
    data = gzip.compress(f'{{{",".join(texts)}}}'.encode(), _LEVEL, mtime=0)
    path = workdir / FILE
    if not (path.is_file() and path.read_bytes() == data):
      whole_files.save(path, lambda file: file.write(data))


def _read(path: stores.Path) -> dict[str, dict[str, identity_lib.Part]]:
  """Returns the entries of a file, {} if it is missing or damaged."""
  try:
    with path.open('rb') as packed, gzip.open(packed) as file:
      text = file.read(limits.JSON_BYTES + 1)
    listed = json_text.loads(text, path.name)
  except (OSError, EOFError, ValueError, zlib.error) as error:
    logging.warning('%s: %s', path, error)
    return {}
  is_nested = isinstance(listed, dict) and all(
    isinstance(parts, dict)
    and all(isinstance(entries, dict) for entries in parts.values())
    for parts in listed.values()
  )
  return listed if is_nested else {}
