"""Tar shards in the layout of webdataset, read in any order.

A shard has the members `KEY.jpg` (or another suffix of an image), and
`KEY.txt`, `KEY.json` or `KEY.cls` of the same sample beside each other. Where
they are is found once for each shard (`data.tar_index`), so that the order of a
run is that of any other reader: the same for any number of processes and
workers, over all samples of all shards, and resumed anywhere.
`data.shard_files` says how shards are named. They may lie in a store,
`gs://BUCKET/FOLDER`: an image is then one request, its caption another, and the
headers are fetched once.

The caption is the .txt, or the field `config.data.text_field` of the .json; the
class is the number in the .cls, or the field `config.data.label_field` of the
.json: a number from 0, or a name of `config.data.category_file`. `shard_rules`
has the filters.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import category_lists
from pyramid_jax.data import file_reader
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.data.shards import shard_files
from pyramid_jax.data.shards import shard_rules
from pyramid_jax.data.shards import tar_index
from pyramid_jax.data.storage import archives


TASKS = ('none', 'text', 'class', 'superres', 'inpaint')
SUFFIX = '.tar'
_KEPT_OPEN = 64  # shards; the files of more are opened for each read


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  return shard_files.missing(config, splits, SUFFIX)


class TarShardsReader(file_reader.FileReader):
  """Reads tar shards (see the module and `reader.Reader`).

  Examples have what `FileReader.cut` returns (`id` is the place among all
  samples that are read), for the task 'class' `class`, for the task 'text' what
  `text_arrays` returns. Images are turned as their EXIF data say.
  """

  def __init__(self, config: ConfigDict, split: str):
    """Indexes the shards.

    Raises:
      ValueError: a shard that cannot be read, no samples that pass, or classes
        beyond `config.condition.num_classes`.
      FileNotFoundError: shards are missing.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    reader_lib.check_task(config, TASKS)
    self._paths = shard_files.find(config, split, SUFFIX)
    self._rules = shard_rules.Rules.of(config)
    cache, workers = index_cache.folder(config), config.data.workers
    self._samples = tar_index.load(self._paths, self._rules, cache, workers)
    left_out = self._samples.left_out
    if not len(self._samples):
      raise errors.UserError(
        f'no sample of the {len(self._paths)} shards of {config.data.root} is'
        f' read: {_counts(left_out) or "they are empty"}.',
        errors.DATA,
      )
    super().__init__(config, split, len(self._samples), 'bicubic')
    self.report |= left_out
    self.label_names = self._names(config)
    self.id_counts = id_ranges.counts(config, self.label_names, self.tokenizer)
    is_kept = len(self._paths) <= _KEPT_OPEN
    self._files = [archives.File(path, is_kept) for path in self._paths]
    logging.info(
      '%d images of %s in %d shards of %s; left out are %s',
      *(len(self), split, len(self._paths), config.data.root),
      _counts(left_out) or 'none',
    )

  def identity(self) -> identity.Identity:
    """Returns the shards and the rules; see `reader.Reader`."""
    counts = np.diff(self._samples.starts).tolist()
    return {
      identity.SHARDS: {
        path.name: [count, path.stat().st_size]
        for path, count in zip(self._paths, counts, strict=True)
      },
      identity.SOURCE: self._rules.options,
      identity.FILES: identity.of_config(self._config),
    }

  def _names(self, config: ConfigDict) -> tuple[str, ...]:
    """Returns the names of the labels; the data have numbers alone."""
    if self._rules.label is None:
      return ('',)
    count = config.condition.num_classes
    labels = self._samples.columns['label']
    most = int(np.argmax(labels))
    if labels[most] >= count:
      raise errors.UserError(
        f'{self._where(most)} has the class {labels[most]}, must be below'
        f' config.condition.num_classes = {count}.',
        errors.DATA,
      )
    names = [str(i) for i in range(count)]
    if config.data.category_file:
      path = category_lists.path_of(config.data.category_file)
      listed = list(category_lists.read(path).values())[:count]
      names[: len(listed)] = listed
    return ('', *names)

  def _where(self, index: int) -> str:
    """Returns what messages call a sample."""
    start = self._samples.columns['image_start'][index]
    shard = self._paths[self._samples.shard(index)]
    return f'{shard}, the image at byte {start}'

  def _load(self, index: int, part: str) -> bytes:
    """Reads a member of a sample, or raises `BrokenImage`."""
    columns = self._samples.columns
    start, size = (
      int(columns[f'{part}_{kind}'][index]) for kind in ('start', 'size')
    )
    where = self._where(index)
    with images.unreadable(where):
      return self._files[self._samples.shard(index)].read(start, size)

  def example(self, index: int, draw: np.uint64) -> file_reader.Example:
    """Returns one example, or raises `BrokenImage`; see `FileReader.cut`."""
    where = self._where(index)
    image = self.opened(self._load(index, 'image'), where, upright=True)
    example, _, _ = self.cut(image, index, draw)
    if self._rules.label is not None:
      label = self._samples.columns['label'][index]
      example['class'] = np.asarray(label + 1, np.int32)
    if self._rules.text is not None:
      example |= self.text_arrays(self._caption(index, self._rules.text))
    return example

  def _caption(self, index: int, field: str) -> str:
    """Returns the caption of a sample, or raises `BrokenImage`."""
    try:
      return shard_rules.caption(self._load(index, 'text'), field)
    except ValueError as error:
      raise images.BrokenImage(self._where(index), str(error)) from error

  def captions(self) -> Iterator[str]:
    """Yields the texts that examples may have.

    Raises:
      ValueError: the configured condition is no text.
    """
    if self._rules.text is None:
      raise ValueError('the configured condition is no text.')
    for index in range(len(self)):
      with contextlib.suppress(images.BrokenImage):
        yield self._caption(index, self._rules.text)


def _counts(left_out: dict[str, int]) -> str:
  """Returns '5 too_small, 1 unsafe'."""
  return ', '.join(f'{count} {reason}' for reason, count in left_out.items())
