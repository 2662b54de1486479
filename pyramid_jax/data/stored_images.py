"""What readers of official sets of images, with or without classes, share."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import file_reader
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import transforms
from pyramid_jax.data.storage import image_lists
from pyramid_jax.data.storage import image_sides
from pyramid_jax.data.storage import image_stores
from pyramid_jax.data.storage import verified


TASKS = ('none', 'superres', 'inpaint')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
  """The images of a split.

  Attributes:
    store: the files.
    rows: positions of the images in it.
    labels: (N,) the class of each image, 0 = none.
    label_names: the names of the classes; entry 0 is padding.
    described: files that say which images and classes these are, by the names
      that messages give them.
    left_out: how many images of the split are left out, by reason.
  """

  store: image_stores.Store
  rows: Sequence[int]
  labels: np.ndarray | None = None
  label_names: tuple[str, ...] = ('',)
  described: Mapping[str, pathlib.Path] = dataclasses.field(
    default_factory=dict
  )
  left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)


def listed(
  config: ConfigDict,
  split: str,
  store: image_stores.Store,
  rows: Sequence[int],
  names: Mapping[int, str] | None = None,
) -> Selection:
  """Returns those of the rows that the list of the split names, or all.

  Of these, images with a smaller side than `config.data.min_side` are left out.
  `names` are those by which a list calls the rows, None for those of the store.

  Raises:
    UserError: the list is of other images, or none is large enough.
  """
  path = image_lists.path_of(config, split)
  described = {f'config.data.{image_lists.field(split)}': path} if path else {}
  chosen = image_lists.chosen(config, split, names or store.names, rows)
  large = _large_enough(config, store, chosen)
  small = len(chosen) - len(large)
  return Selection(
    store=store,
    rows=large,
    described=described,
    left_out={'too_small': small} if small else {},
  )


def _large_enough(
  config: ConfigDict, store: image_stores.Store, rows: Sequence[int]
) -> Sequence[int]:
  """Returns the rows of the images of `config.data.min_side` px and more."""
  least = config.data.min_side
  if not least:
    return rows
  sides = image_sides.shorter(
    store, rows, index_cache.folder(config), config.data.workers
  )
  kept = np.asarray(rows, np.int64)[sides >= least].tolist()
  if not kept:
    raise errors.UserError(
      f'config.data.min_side is {least}, must be at most {sides.max()}: no'
      f' image of {config.data.root} has larger sides.',
      errors.DATA,
    )
  return kept


class StoredReader(file_reader.FileReader):
  """Reads selected images of a store (see `reader.Reader`).

  Examples have what `FileReader.cut` returns (`id` is the place in the order of
  the names) and `class`, and with a text condition what `text_arrays` returns
  of the name of the class. The EXIF orientation is ignored, as official loaders
  do.
  """

  def __init__(
    self,
    config: ConfigDict,
    split: str,
    selection: Selection,
    tasks: Sequence[str] = TASKS,
    resize: str = 'bicubic',
  ):
    """Takes the images of a split.

    `tasks` are those that the set serves, `resize` the filter that serves where
    `config.data.resize` is empty.

    Raises:
      ValueError: another task.
      UserError: files that `config.data.checksums` lacks or does not serve.
    """
    reader_lib.check_task(config, tasks)
    super().__init__(config, split, len(selection.rows), resize)
    self._store = verified.verified(config, selection.store)
    self._rows = np.asarray(selection.rows, np.int64)
    labels = selection.labels
    count = len(self._rows)
    self._labels = np.zeros(count, np.int32) if labels is None else labels
    self.label_names = selection.label_names
    self._described = selection.described
    self.report |= selection.left_out
    self.id_counts = id_ranges.counts(config, self.label_names, self.tokenizer)
    logging.info('%d images of %s, %s', count, config.data.name, split)

  def identity(self) -> identity.Identity:
    """Returns the images, and what describes them; see `reader.Reader`."""
    return {
      identity.IMAGES: self._store.sizes(self._rows.tolist()),
      identity.FILES: {
        **identity.of_files(self._described),
        **identity.of_config(self._config),
      },
      identity.CHECKSUMS: identity.of_checksums(self._config),
    }

  def decoded(self, index: int) -> transforms.AnyImage:
    """Returns the image of an index, or raises `BrokenImage`."""
    row = int(self._rows[index])
    return self.opened(self._store.load(row), self._store.where(row))

  def captions(self) -> Iterable[str]:
    """Returns the texts that examples may have, the names of classes."""
    return self.label_names[1:]

  def example(self, index: int, draw: np.uint64) -> file_reader.Example:
    """Returns one example, or raises `BrokenImage`; see `FileReader.cut`."""
    example, _, _ = self.cut(self.decoded(index), index, draw)
    label = self._labels[index]
    example['class'] = np.asarray(label, np.int32)
    if self.tokenizer is not None:
      example |= self.text_arrays(self.label_names[label])
    return example
