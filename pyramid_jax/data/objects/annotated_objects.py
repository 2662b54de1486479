"""Images with labelled boxes: what all such data sets have in common."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
import threading

from absl import logging
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from pyramid_jax import errors
from pyramid_jax import files as files_lib
from pyramid_jax.conditioning import hashing
from pyramid_jax.conditioning import layout
from pyramid_jax.conditioning import scene_graph
from pyramid_jax.data import category_lists
from pyramid_jax.data import file_reader
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.objects import object_graphs
from pyramid_jax.data.objects import object_index
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import transforms
from pyramid_jax.data.storage import checksums
from pyramid_jax.data.storage import image_lists
from pyramid_jax.data.storage import listing


_SHUFFLE = 105  # word of the hash that orders the objects
# What the files of `lists` are, for the user.
LISTS = {
  'ids': 'image ids, config.data.ids_file or eval_ids_file',
  'categories': f'ID,Name rows, {category_lists.FIELD}',
}


def lists(config: ConfigDict, split: str) -> dict[str, pathlib.Path]:
  """Returns the files of `LISTS` that a config names, by kind."""
  found = {}
  name = image_lists.field(split)
  if config.data[name]:
    found['ids'] = files_lib.local(config.data[name], f'config.data.{name}')
  if config.data.category_file:
    found['categories'] = category_lists.path_of(config.data.category_file)
  return found


def boxes_in_crop(
  boxes: np.ndarray, crop: np.ndarray, flipped: bool
) -> np.ndarray:
  """Cuts boxes (N, 4) by the crop and expresses them in it, in [0, 1].

  `boxes` and `crop` (4,) are x0, y0, x1, y1 of the full image; `flipped` says
  whether the result is mirrored.
  """
  size = np.tile(crop[2:] - crop[:2], 2)
  inside = ((boxes - np.tile(crop[:2], 2)) / size).clip(0, 1)
  if flipped:
    inside[:, [0, 2]] = 1 - inside[:, [2, 0]]
  return inside


def visible(boxes: np.ndarray, crop: np.ndarray, places: int) -> np.ndarray:
  """Returns the rows of the first `places` boxes (N, 4) that a crop shows."""
  low = np.maximum(boxes[:, :2], crop[:2])
  high = np.minimum(boxes[:, 2:], crop[2:])
  return np.flatnonzero(np.all(high > low, axis=-1))[:places]


def pad(values: np.ndarray, rows: int) -> np.ndarray:
  """Fills up with rows of zeros."""
  padded = np.zeros((rows, *values.shape[1:]), values.dtype)
  padded[: len(values)] = values
  return padded


def object_arrays(
  boxes: np.ndarray, labels: np.ndarray, flags: np.ndarray, places: int
) -> dict[str, np.ndarray]:
  """Returns `boxes`, `labels` and `box_flags`, padded, and `n_boxes`."""
  return {
    'boxes': pad(boxes.astype(np.float32), places),
    'labels': pad(labels, places),
    'box_flags': pad(flags, places),
    'n_boxes': np.asarray(len(boxes), np.int32),
  }


def _has_shape(image: Image.Image, size: np.ndarray) -> bool:
  """Whether an image is a scaled one of a width and a height.

  Its height may differ by a pixel or a hundredth.
  """
  height = size[1] * image.width / size[0]
  return abs(height - image.height) <= 1 + height / 100


class AnnotatedObjectsReader(file_reader.FileReader):
  """A reader of images with boxes (see `reader.Reader`).

  Examples have what `FileReader.cut` and `object_arrays` return, and
  `boxes_full`; by task also `condition_ids`, for texts `caption_ids` and
  `caption_mask`, for scene graphs mostly `triples`; and outside of training the
  text itself, `caption` (bytes).

  The draw of an example decides its crop, its flip, the order of its objects
  and the relations of a scene graph by rule, which describes what the crop
  shows.

  Attributes:
    tasks: those that the data serve.
    has_maps: whether they have semantic maps, see `map_of`.
  """

  tasks: Sequence[str] = ('none', 'layout', 'label', 'scene_graph')
  has_maps = False

  def __init__(
    self,
    config: ConfigDict,
    split: str,
    index: object_index.Index,
    folder: pathlib.Path,
    token_flags: int = 0,
    described: Mapping[str, pathlib.Path] | None = None,
  ):
    """Reads `config.data` and `config.condition`.

    `folder` is what the files of the index are relative to, `token_flags` the
    bits of `box_flags` that object tokens tell apart (OpenImages: 1; COCO and
    Visual Genome: none), `described` the files that the index was made of, by
    names for messages.

    Raises:
      ValueError: unknown task, no images, or tokens that the encoder lacks.
    """
    super().__init__(config, split, len(index.ids), 'bilinear')
    self.label_names = tuple(name.decode() for name in index.names)
    self._index = index
    self._folder = folder
    self._described = described or {}
    self._token_flags = token_flags
    if not len(index.ids):
      filters = object_index.Filters.of(config, split)
      raise errors.UserError(
        f'no image of {folder} passes {filters} and the id file.', errors.DATA
      )
    self._check_condition()
    for line in index.faults:
      logging.warning('%s', line.decode())
    self._files = self._located(index)
    present = [file for file in self._files.values() if file]
    self._checksums = checksums.Checksums(config, folder, present)
    self._scaled = threading.Event()  # whether the log has said it
    logging.info('%s images of %s in %s', len(self), split, folder)

  @property
  def index(self) -> object_index.Index:
    """The images of the split and their objects."""
    return self._index

  @property
  def token_flags(self) -> int:
    """The bits of `box_flags` that object tokens tell apart."""
    return self._token_flags

  def _located(self, index: object_index.Index) -> dict[str, str]:
    """Returns the file of every name in the index, '' for one that is gone."""
    names = [name.decode() for name in index.files]
    there = listing.located(self._folder, names)
    files = {**dict.fromkeys(names, ''), **there}
    absent = [name for name, file in files.items() if not file]
    if absent:
      counted = listing.counted('images', absent)
      logging.warning('%s lacks %s', self._folder, counted)
    return files

  def identity(self) -> identity.Identity:
    """Returns the images and the files of the index; see `reader.Reader`."""
    places = {name: file or name for name, file in self._files.items()}
    found = identity.sizes(self._folder, places.values())
    return {
      identity.IMAGES: {name: found[file] for name, file in places.items()},
      identity.FILES: {
        **identity.of_files(self._described),
        **identity.of_config(self._config),
      },
      identity.CHECKSUMS: identity.of_checksums(self._config),
    }

  def _check_condition(self) -> None:
    c = self._config.condition
    reader_lib.check_task(self._config, self.tasks)
    if 'mask' in self._maps and not self.has_maps:
      raise ValueError(
        "config.data.maps has 'mask', which config.data.name ="
        f' {self._config.data.name} does not have for the task {c.task!r}.'
      )
    labels = len(self.label_names)
    has_tokens = c.task in ('layout', 'label') and c.encoder != 'boxes'
    if has_tokens and self._token_flags == 0 and labels > c.no_tokens:
      raise ValueError(
        f'config.condition.no_tokens is {c.no_tokens}, must be at least '
        f'{labels}: that many labels, padding included, are in the data.'
      )
    self.id_counts = id_ranges.counts(
      self._config, self.label_names, self.tokenizer, self._token_flags
    )

  def example(self, index: int, draw: np.uint64) -> file_reader.Example:
    """Returns one example, or raises `BrokenImage`."""
    table, c = self._index, self._config.condition
    image = self._read(index)
    example, crop, flipped = self.cut(image, table.ids[index], draw)
    if 'mask' in self._maps:
      example['mask'] = self.map_of(index, image, crop, flipped)
    places = self._config.data.max_objects
    rows = np.arange(table.starts[index], table.starts[index + 1])
    rows = rows[hashing.order(len(rows), draw, _SHUFFLE)]
    rows = rows[visible(table.boxes[rows], crop, places)]
    full = table.boxes[rows]
    boxes = boxes_in_crop(full, crop, flipped)
    labels, flags = table.labels[rows], table.flags[rows]
    example |= object_arrays(boxes, labels, flags, places)
    example['boxes_full'] = pad(full.astype(np.float32), places)
    if c.task in ('layout', 'label'):
      vocabulary = layout.Vocabulary.of(c, len(self.label_names) - 1)
      bits = flags & self._token_flags
    if c.task == 'layout':
      # From float64, as the official code computes, not from the arrays above.
      tokens = layout.layout_tokens(
        full if c.encode_crop else boxes,
        labels,
        bits,
        c.max_objects,
        vocabulary,
        crop if c.encode_crop else None,
        flipped and c.encode_crop,
      )
      example['condition_ids'] = np.asarray(tokens)
    elif c.task == 'label':
      tokens = layout.label_tokens(labels, c.max_objects, vocabulary, bits)
      example['condition_ids'] = np.asarray(tokens)
    elif c.task == 'text':
      example |= self.text_arrays(table.captions[index].decode())
    elif c.task == 'scene_graph':
      example |= self._graph(index, rows, boxes, flipped, draw)
    return example

  def captions(self) -> Iterable[str]:
    """Returns the texts that examples may have.

    Raises:
      ValueError: texts that depend on the crop.
    """
    table, task = self._index, self._config.condition.task
    if task == 'scene_graph' and table.has_relations:
      return (object_graphs.text(table, i) for i in range(len(table.ids)))
    if task != 'text' and not len(table.captions):
      raise ValueError(
        f'config.condition.task is {task!r}, whose texts depend on the crop;'
        " must be 'text'"
      )
    return (x.decode() for x in table.captions)

  def map_of(
    self,
    index: int,
    image: Image.Image | transforms.Cut,
    crop: np.ndarray,
    flipped: bool,
  ) -> np.ndarray:
    """Returns the map (size, size) uint8 of an image, cut as the image was.

    Only data with semantic maps are asked; they override it.
    """
    raise NotImplementedError

  def _read(self, index: int) -> Image.Image | transforms.Cut:
    """Returns an image as its boxes lie on it.

    That is as it is stored, or upright if its annotation has the size of that.
    One of another size with the same shape serves: boxes are parts of it.

    Raises:
      BrokenImage: it cannot be read, or has another shape.
    """
    name = self._index.files[index].decode()
    file = self._files[name] or name
    path = self._folder / file
    size = self._index.sizes[index]
    data = images.load_bytes(path)
    self._checksums.check(file, path, data)
    image = images.decode_image(data, path)
    if not size.all():  # The annotation does not say it.
      return image
    if not _has_shape(image, size):
      image = images.decode_image(data, path, upright=True)
    width, height = image.size
    said = f'{width}x{height} px, its annotation says {size[0]:g}x{size[1]:g}'
    if not _has_shape(image, size):
      raise images.BrokenImage(path, said)
    if (width, height) != tuple(size) and not self._scaled.is_set():
      self._scaled.set()
      logging.warning('%s: %s; the boxes of such images are scaled', path, said)
    return image

  def _graph(
    self,
    index: int,
    rows: np.ndarray,
    boxes: np.ndarray,
    flipped: bool,
    draw: np.uint64,
  ) -> file_reader.Example:
    """Returns the text of a scene graph, and `triples` unless it is given.

    A text in the data is taken as it is. Relations in the data are those of the
    whole image as text, and those of visible objects as triples. Without either
    the visible objects are related by rule.

    Args:
      index: the position of the image.
      rows: of its visible objects in the index.
      boxes: (N, 4) of these objects in the crop.
      flipped: whether the boxes are mirrored.
      draw: of the example.
    """
    table, places = self._index, self._config.data.max_objects
    if len(table.captions):
      return self.text_arrays(table.captions[index].decode())
    if table.has_relations:
      triples = object_graphs.visible(table, index, rows, places)
      text = object_graphs.text(table, index)
    else:
      centroids = table.centroids[rows if len(table.centroids) else slice(0)]
      triples = object_graphs.by_rule(centroids, boxes, flipped, draw, places)
      names = [self.label_names[k] for k in table.labels[rows]]
      text = scene_graph.graph_text(names, triples)
    return {'triples': triples, **self.text_arrays(text)}
