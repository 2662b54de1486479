"""Images that `pyramid_jax.commands.prepare` has cut and resized.

`config.data.root` is the folder that it wrote. Examples are those of the data
themselves with the crop of the preparation: crops are drawn once, mirroring,
the order of objects, holes and low-resolution versions with every example.
"""

from collections.abc import Iterator
import contextlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from pyramid_jax import errors
from pyramid_jax.data import file_reader
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data.objects import annotated_objects
from pyramid_jax.data.objects import object_index
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import ppm
from pyramid_jax.data.pixels import transforms
from pyramid_jax.data.shards import prepared
from pyramid_jax.data.shards import tf_example
from pyramid_jax.files import json_text


missing_inputs = prepared.missing_inputs


def open_records(
  config: ConfigDict, split: str
) -> 'ImageRecords | ObjectRecords':
  """Returns the reader of a split."""
  found = prepared.Prepared(config, split)
  kind = ObjectRecords if found.has_objects else ImageRecords
  return kind(config, split, found)


class _Records:
  """The records of a split."""

  def __init__(self, found: prepared.Prepared):
    self._found = found
    self._source = found.records()

  def __call__(
    self, index: int
  ) -> tuple[transforms.Cut, dict[str, Any], dict[str, list[Any]]]:
    """Returns the image with its crop, the other fields and all features.

    Raises:
      BrokenImage: a record that is damaged.
    """
    where = self._where(index)
    try:
      features = tf_example.unpack(self._source[index])
      facts = json_text.loads(features['facts'][0])
      crop = np.array(facts['crop'], np.float64)
      fields = {k: np.array(v, t) for k, (t, v) in facts['fields'].items()}
      data = features['image'][0]
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
      raise images.BrokenImage(where, f'damaged ({error!r:.80})') from error
    plain = ppm.pixels(data)
    image = images.decode_image(data, where) if plain is None else plain
    return transforms.Cut(image, crop), fields, features

  def _where(self, index: int) -> str:
    """Returns what messages call a record."""
    return f'{self._found.folder}, {self._found.split} record {index}'

  def caption(self, index: int) -> str:
    """Returns the text of a record, whose image is not decoded.

    Raises:
      BrokenImage: a record that is damaged.
    """
    try:
      return tf_example.unpack(self._source[index])['caption'][0].decode()
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
      what = f'damaged ({error!r:.80})'
      raise images.BrokenImage(self._where(index), what) from error


class ImageRecords(file_reader.FileReader):
  """Reads images with classes, captions and maps (see `reader.Reader`).

  Examples are those of the reader of the data, see the module.
  """

  def __init__(self, config: ConfigDict, split: str, found: prepared.Prepared):
    """Opens a split.

    Raises:
      UserError: shards that are not there.
    """
    super().__init__(config, split, found.count, 'bicubic')
    self._found = found
    self._records = _Records(found)
    self.label_names = found.label_names
    self.id_counts = id_ranges.counts(config, self.label_names, self.tokenizer)

  def identity(self) -> identity.Identity:
    """Returns the shards and what they are of; see `reader.Reader`."""
    lists = identity.of_config(self._config)
    return {**self._found.identity(), identity.FILES: lists}

  def captions(self) -> Iterator[str]:
    """Yields the texts that examples may have.

    Raises:
      ValueError: the configured condition is no text.
    """
    if self.tokenizer is None:
      raise ValueError('the configured condition is no text.')
    for index in range(len(self)):
      with contextlib.suppress(images.BrokenImage):
        yield self._records.caption(index)

  def example(self, index: int, draw: np.uint64) -> file_reader.Example:
    """Returns one example, or raises `BrokenImage`."""
    cut, fields, features = self._records(index)
    example, _, flipped = self.cut(cut, index, draw)
    example |= fields
    if 'mask' in self._maps:
      mask = images.decode_map(features['mask'][0], str(index))
      example['mask'] = mask[:, ::-1] if flipped else mask
    if self.tokenizer is not None:
      example |= self.text_arrays(features['caption'][0].decode())
    return example


class ObjectRecords(annotated_objects.AnnotatedObjectsReader):
  """Reads images with boxes (see `AnnotatedObjectsReader`)."""

  # The preparation was for one of them; `prepared` compares.
  tasks = ('none', 'text', 'layout', 'label', 'scene_graph', 'map')
  has_maps = True

  def __init__(self, config: ConfigDict, split: str, found: prepared.Prepared):
    """Opens a split.

    Raises:
      UserError: shards that are not there, or an index that is damaged.
    """
    self._found = found
    self._records = _Records(found)
    try:
      index = object_index.Index(**found.index())
    except TypeError as error:
      file = found.folder / prepared.index_name(found.split)
      raise errors.UserError(f'{file}: {error}', errors.DATA) from error
    flags = found.manifest['token_flags']
    super().__init__(config, split, index, found.folder, flags)

  def identity(self) -> identity.Identity:
    """Returns the shards and what they are of; see `reader.Reader`."""
    lists = identity.of_config(self._config)
    return {**self._found.identity(), identity.FILES: lists}

  def _located(self, index: object_index.Index) -> dict[str, str]:
    del index  # The images are in the shards.
    return {}

  def example(self, index: int, draw: np.uint64) -> file_reader.Example:
    """Returns one example, or raises `BrokenImage`."""
    return super().example(self._found.replaced.get(index, index), draw)

  def map_of(
    self,
    index: int,
    image: Image.Image | transforms.Cut,
    crop: np.ndarray,
    flipped: bool,
  ) -> np.ndarray:
    """Returns the map that was cut with the image."""
    del image, crop
    mask = images.decode_map(self._records(index)[2]['mask'][0], str(index))
    return mask[:, ::-1] if flipped else mask

  def _read(self, index: int) -> transforms.Cut:
    return self._records(index)[0]
