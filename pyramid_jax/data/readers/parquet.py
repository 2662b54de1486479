"""Parquet files of data sets from huggingface.co, and others of their kind.

`data.shard_files` says which files a split reads; `datasets` names them
`train-00000-of-00010.parquet`. The column `config.data.image_field` has the
bytes of image files, by themselves or as the part `bytes` of a struct;
`text_field` the captions (of a list, the first counts); `label_field` the
classes: numbers from 0, -1 for none, or names. Classes have the names that
`datasets` wrote into the files, else those of `config.data.category_file`, else
their numbers.

`config.data.min_side`, `min_similarity`, `nsfw` and `max_unsafe` leave rows out
by their columns `width` and `height`, `similarity`, `NSFW` and `punsafe`.

Rows are read in any order, but a row group at a time: see `data.parquet_files`.
The files may lie in a store, `gs://BUCKET/FOLDER`.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import category_lists
from pyramid_jax.data import file_reader
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.pixels import images
from pyramid_jax.data.shards import parquet_files
from pyramid_jax.data.shards import shard_files
from pyramid_jax.data.shards import table_filters


TASKS = ('none', 'text', 'class', 'superres', 'inpaint')
SUFFIX = '.parquet'
TEXTS = ('text', 'caption')  # columns where `text_field` is empty
LABELS = ('label', 'labels')  # the same of `label_field`
_NO_CLASS = (None, -1)


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  return shard_files.missing(config, splits, SUFFIX)


class ParquetReader(file_reader.FileReader):
  """Reads parquet files (see the module and `reader.Reader`).

  Examples have what `FileReader.cut` returns (`id` is the row), for the task
  'class' `class` (0 = none), for the task 'text' what `text_arrays` returns.
  Images are turned as their EXIF data say.
  """

  def __init__(self, config: ConfigDict, split: str):
    """Opens the files.

    Raises:
      ValueError: a file that cannot be read, a column that is missing or of
        another type, or classes beyond `config.condition.num_classes`.
      FileNotFoundError: files are missing.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    reader_lib.check_task(config, TASKS)
    self._paths = shard_files.find(config, split, SUFFIX)
    self._rows = parquet_files.Rows(self._paths)
    d, task = config.data, config.condition.task
    self._image = self._column('image_field', d.image_field, ())
    self._text = self._label = ''
    if task in tokenizers.TEXT_TASKS:
      self._text = self._column('text_field', d.text_field, TEXTS)
    if task == 'class':
      self._label = self._column('label_field', d.label_field, LABELS)
    self._columns = [self._image_part(), self._text, self._label]
    self._columns = [name for name in self._columns if name]
    if not len(self._rows):
      raise errors.UserError(
        f'the {len(self._paths)} files {SUFFIX} of {d.root} have no rows.',
        errors.DATA,
      )
    where = f'the {len(self._paths)} files {SUFFIX} of {d.root}'
    self._places, left_out = table_filters.passing(config, self._rows, where)
    if not len(self._places):
      raise errors.UserError(
        f'no row of {where} is read: {errors.shown(left_out)}.', errors.DATA
      )
    super().__init__(config, split, len(self._places), 'bicubic')
    self.report |= left_out
    self._of_class: Callable[[Any], int]
    self._of_class, self.label_names = self._numbered(config)
    self.id_counts = id_ranges.counts(config, self.label_names, self.tokenizer)
    logging.info(
      '%d images of %s in %d files of %s',
      *(len(self), split, len(self._paths), d.root),
    )

  def identity(self) -> identity.Identity:
    """Returns the files, with rows and bytes; see `reader.Reader`."""
    return {
      identity.SHARDS: {
        path.name: [count, path.stat().st_size]
        for path, count in zip(self._paths, self._rows.counts, strict=True)
      },
      identity.SOURCE: {
        'columns': self._columns,
        **{k: v for k, v in (x.field for x in table_filters.of(self._config))},
      },
      identity.FILES: identity.of_config(self._config),
    }

  def _column(self, field: str, name: str, usual: tuple[str, ...]) -> str:
    """Returns the column of a field, or raises a UserError."""
    there = self._rows.columns
    names = (name,) if name else usual
    found = next((x for x in names if x in there), None)
    if found is None:
      raise errors.UserError(
        f'config.data.{field} is {name!r}, must be a column of'
        f' {self._paths[0]}: {", ".join(there)}.',
        errors.DATA,
      )
    return found

  def _image_part(self) -> str:
    """Returns what is read of the column of images."""
    kinds = parquet_files.library_types()
    kind = self._rows.schema.field(self._image).type
    is_bytes = lambda x: kinds.is_binary(x) or kinds.is_large_binary(x)
    if is_bytes(kind):
      return self._image
    if kinds.is_struct(kind):
      place = kind.get_field_index('bytes')
      if place >= 0 and is_bytes(kind.field(place).type):
        return f'{self._image}.bytes'
    raise errors.UserError(
      f'{self._paths[0]}: the column {self._image!r} (config.data.image_field)'
      f' is of the type {str(kind)[:100]}, must be binary or a struct with'
      ' binary bytes.',
      errors.DATA,
    )

  def _numbered(
    self, config: ConfigDict
  ) -> tuple[Callable[[Any], int], tuple[str, ...]]:
    """Returns the values of the column -> labels, and the names by label."""
    if not self._label:
      return int, ('',)
    names = _class_names(self._rows.features.get(self._label))
    values = self._rows.distinct(self._label)
    if any(isinstance(value, str) for value in values):
      texts = [value for value in values if value is not None]
      labels, by_label = category_lists.numbered(config, {x: x for x in texts})
      return lambda value: labels.get(value, 0), by_label
    listed = config.data.category_file
    if names and listed:
      labels, by_label = category_lists.numbered(config, {x: x for x in names})
      table = [labels[name] for name in names]
    else:
      if listed:
        names = [*category_lists.read(category_lists.path_of(listed)).values()]
      if not names:
        names = [str(i) for i in range(config.condition.num_classes)]
      table, by_label = [*range(1, len(names) + 1)], ('', *names)
    self._check_most(values, len(names))
    return lambda value: 0 if value in _NO_CLASS else table[value], by_label

  def _check_most(self, values: Sequence[Any], count: int) -> None:
    """Raises a UserError for a class without a name."""
    odd = [x for x in values if x not in _NO_CLASS and not 0 <= x < count]
    if odd:
      raise errors.UserError(
        f'{self._config.data.root}: the column {self._label!r} has the class'
        f' {max(odd, key=abs)}, must be below {count}: that many have names'
        ' (of the files, of config.data.category_file, or as many as'
        ' config.condition.num_classes).',
        errors.DATA,
      )

  def example(self, index: int, draw: np.uint64) -> file_reader.Example:
    """Returns one example, or raises `BrokenImage`; see `FileReader.cut`."""
    place = int(self._places[index])
    where = self._rows.where(place)
    with images.unreadable(where):
      row = self._rows.row(place, self._columns)
      value = row[self._image]
      data = value['bytes'] if isinstance(value, dict) else value
      if not data:
        raise ValueError('no bytes of an image; is it in a file of its own?')
    image = self.opened(data, where, upright=True)
    example, _, _ = self.cut(image, index, draw)
    if self._label:
      label = self._of_class(row[self._label])
      example['class'] = np.asarray(label, np.int32)
    if self._text:
      example |= self.text_arrays(_caption(row[self._text], where))
    return example

  def captions(self) -> Iterator[str]:
    """Yields the texts that examples may have.

    Raises:
      ValueError: the configured condition is no text.
    """
    if not self._text:
      raise ValueError('the configured condition is no text.')
    for place in self._places.tolist():
      where = self._rows.where(place)
      with contextlib.suppress(images.BrokenImage), images.unreadable(where):
        yield _caption(self._rows.row(place, [self._text])[self._text], where)


def _class_names(feature: Any) -> list[str]:
  """Returns the names of a ClassLabel of `datasets`, [] of anything else."""
  names = feature.get('names') if isinstance(feature, dict) else None
  if not isinstance(names, list) or not all(isinstance(x, str) for x in names):
    return []
  return names


def _caption(value: Any, where: str) -> str:
  """Returns the text of a value; of several, the first."""
  if isinstance(value, list):
    value = value[0] if value else None
  if not isinstance(value, str) or not value.strip():
    raise images.BrokenImage(where, 'no text')
  if len(value) > limits.TEXT_CHARACTERS:
    raise images.BrokenImage(where, f'a text of {len(value)} characters')
  return value
