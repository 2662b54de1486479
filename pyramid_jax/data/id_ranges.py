"""Whether the ids of a reader fit the tables in which they are looked up.

A look-up beyond a table gives NaN, in the compiled program and without a word.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Protocol

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.conditioning import layout
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import reader as reader_lib


class Labelled(Protocol):
  """What is asked of a reader (see `reader.Reader`)."""

  id_counts: Mapping[str, int]


def counts(
  config: ConfigDict,
  label_names: Sequence[str],
  tokenizer: tokenizers.Tokenizer | None,
  flags: int = 0,
) -> dict[str, int]:
  """Returns how many ids the arrays of a reader may have, by name.

  Args:
    config: the config of the run.
    label_names: the names of the labels, padding included.
    tokenizer: of the texts of the condition, None without any.
    flags: the largest value of `box_flags` in object tokens.
  """
  c, labels = config.condition, len(label_names)
  found = {'labels': labels, 'class': labels}
  if c.task in ('layout', 'label'):
    tokens = layout.Vocabulary.of(c, labels - 1)
    found['condition_ids'] = tokens.size(flags)
  elif tokenizer is not None:
    found['condition_ids'] = tokenizer.size
  return found


def check(config: ConfigDict, reader: Labelled) -> None:
  """Raises a UserError for ids beyond their table.

  The message has the range of the ids and the field of the table.
  """
  for name, (field, rows, least) in _tables(config, reader.id_counts).items():
    if rows < least:
      raise errors.UserError(
        f'config.condition.{field} is {rows}, must be at least {least}: the ids'
        f' of {name} of config.data.name = {config.data.name} lie in'
        f' [0, {reader.id_counts[name] - 1}].'
      )
  _check_length(config)


def _tables(
  config: ConfigDict, ids: Mapping[str, int]
) -> dict[str, tuple[str, int, int]]:
  """Returns (field, its value, the least that serves) by array with ids."""
  c, found = config.condition, {}
  if 'class' in (c.task, c.also):
    found['class'] = ('num_classes', -1)  # 0 is no class and has its own row.
  if c.task == 'map' or 'mask' in reader_lib.wanted_maps(config):
    found['mask'] = ('map_classes', 0)
  if c.task == 'layout' and c.encoder == 'boxes':
    found['labels'] = ('num_labels', 0)
  elif c.task in ('layout', 'label', *tokenizers.TEXT_TASKS):
    found['condition_ids'] = ('vocab_size', 0)
  return {
    name: (field, c[field], ids[name] + more)
    for name, (field, more) in found.items()
    if name in ids
  }


def _check_length(config: ConfigDict) -> None:
  """Raises a UserError for a sequence beyond the table of places."""
  c = config.condition
  if c.task not in ('layout', 'label') or c.encoder == 'boxes':
    return
  length = c.max_objects
  if c.task == 'layout':
    length = 3 * c.max_objects + 2 * c.encode_crop
  if length > c.max_length:
    raise errors.UserError(
      f'config.condition.max_length is {c.max_length}, must be at least'
      f' {length}: the tokens of config.condition.max_objects ='
      f' {c.max_objects} objects.'
    )
