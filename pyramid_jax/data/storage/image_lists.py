"""Lists of the images of a split, one file name a line, as papers publish them.

`config.data.ids_file` lists those of training, `config.data.eval_ids_file`
those of the other splits. Either is a file of one's own or one of the lists of
this package, which are random divisions that CompVis/taming-transformers
published (data/celebahqtrain.txt and so on; MIT):

  celebahqtrain, celebahqvalidation  25,000 and 5,000 of CelebA-HQ
  ffhqtrain, ffhqvalidation          60,000 and 10,000 of FFHQ

What a line names is found whatever its suffix and its folder are, unless lines
have folders: `imgHQ00042.npy` may be there as `00/imgHQ00042.png`.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
import re
from typing import NamedTuple

from absl import logging
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.data import category_lists
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.data.storage import listing


Names = Sequence[str] | Mapping[int, str]  # of files by row
Rows = Sequence[int]


class Published(NamedTuple):
  """A list of this package."""

  file: str  # with the numbers of validation
  total: int  # images
  is_validation: bool  # whether those are meant, or the others


LISTS = {
  'celebahqtrain': Published('celebahqvalidation.txt', 30_000, False),
  'celebahqvalidation': Published('celebahqvalidation.txt', 30_000, True),
  'ffhqtrain': Published('ffhqvalidation.txt', 70_000, False),
  'ffhqvalidation': Published('ffhqvalidation.txt', 70_000, True),
}
_NUMBER = re.compile(r'\d+')


def field(split: str) -> str:
  """Returns the name of the field with the list of a split."""
  return 'ids_file' if split == 'train' else 'eval_ids_file'


def path_of(config: ConfigDict, split: str) -> pathlib.Path | None:
  """Returns the file with the list of a split, None without one."""
  name = field(split)
  given = config.data[name]
  if not given:
    return None
  if given in LISTS:
    return category_lists.FOLDER / LISTS[given].file
  return files.local(given, f'config.data.{name}')


def missing_inputs(config: ConfigDict, split: str) -> list[str]:
  """Returns 'path (config field)' of the list of a split if it is absent."""
  name = field(split)
  given = config.data[name]
  if not given or given in LISTS:
    return []
  line = files.missing(given, f'config.data.{name}')
  return [line] if line else []


def number(name: str) -> int | None:
  """Returns the last number in a file's name, None without one."""
  found = _NUMBER.findall(_stem(name).rpartition('/')[2])
  return int(found[-1]) if found else None


def _stem(name: str) -> str:
  """Returns a path without its suffix and './'."""
  return os.path.splitext(os.path.normpath(name.replace('\\', '/')))[0]


def chosen(
  config: ConfigDict,
  split: str,
  names: Names,
  rows: Rows,
) -> list[int]:
  """Returns those of the rows whose names the list of a split has.

  Args:
    config: names the list; without one all rows are returned.
    split: the split.
    names: of the files by row.
    rows: ascending.

  Raises:
    UserError: the list has none of them, or is of another set of images.
  """
  path = path_of(config, split)
  if path is None:
    return list(rows)
  given, of = config.data[field(split)], f'config.data.{field(split)}'
  lines = [line for _, line in annotation_files.load_lines(path)]
  if given in LISTS:
    found = _published(f'{of} = {given}', LISTS[given], lines, names, rows)
  else:
    found = _listed(given, lines, names, rows)
  if not found:
    raise errors.UserError(
      f'{given} ({of}) lists none of the {len(rows)} images, such as'
      f' {names[rows[0]]!r}.',
      errors.DATA,
    )
  return found


def _published(
  what: str, of: Published, lines: Sequence[str], names: Names, rows: Rows
) -> list[int]:
  """Returns the rows of a published list; an image of another set is refused.

  `what` is the list in messages, `lines` has the numbers of validation.
  """
  validation = {int(line) for line in lines}
  found = []
  for row in rows:
    place = number(names[row])
    if place is None or place >= of.total:
      raise errors.UserError(
        f'{what} divides images whose names have numbers below {of.total}; got'
        f' {names[row]!r}: an empty list reads all.',
        errors.DATA,
      )
    if (place in validation) == of.is_validation:
      found.append(row)
  return found


def _listed(
  given: str, lines: Sequence[str], names: Names, rows: Rows
) -> list[int]:
  """Returns the rows of a list of names; absent ones are logged."""
  has_folders = any('/' in os.path.normpath(line) for line in lines)
  key = _stem if has_folders else lambda x: _stem(x).rpartition('/')[2]
  wanted = {key(line) for line in lines}
  found = [row for row in rows if key(names[row]) in wanted]
  there = {key(names[row]) for row in found}
  absent = [line for line in lines if key(line) not in there]
  if absent:
    text = listing.counted('files that are not there', absent)
    logging.warning('%s names %s', given, text)
  return found
