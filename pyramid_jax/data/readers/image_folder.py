"""A folder of one's own images.

`config.data.root` holds images at any depth. If it has a folder `train`, then
every split reads the folder of its name (test falls back to `val`); otherwise
all splits read everything. The first folder of a path is the image's class;
those of all splits together are numbered in the order of their names, or by
`config.data.category_file` (names or synsets of ImageNet).

`captions.jsonl`, beside the images, gives captions, one object a line:
{"file": "cats/1.jpg", "caption": "a cat"}. The task 'text' needs it, and
leaves images without a caption out. A line may also describe the camera by
"pitch" and "depth_of_field", with the values of `conditioning.camera`.

`1.map.png`, beside `1.jpg`, is the image's semantic map: 8-bit grey values, or
a palette, 0 = unlabelled. The task 'map' leaves images without one out, and so
does `mask` among `config.data.maps`. Edges are those that the detector
`config.data.edges` finds in an image as it is cut.

With `config.data.buckets` training images nearly keep their aspect ratio: see
`data.buckets`.
"""

from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Sequence
from concurrent import futures
import functools
import pathlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.conditioning import camera
from pyramid_jax.data import category_lists
from pyramid_jax.data import file_reader
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import buckets
from pyramid_jax.data.pixels import class_maps
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import transforms
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.data.storage import checksums
from pyramid_jax.data.storage import folder_index
from pyramid_jax.data.storage import listing
from pyramid_jax.files import json_text
from pyramid_jax.files import stores


TASKS = ('none', 'text', 'class', 'map', 'superres', 'inpaint')
BUCKET_TASKS = ('none', 'text', 'class')  # whose conditions have no grid


def folder(config: ConfigDict, split: str) -> pathlib.Path:
  """Returns the folder that a split reads."""
  root = stores.path(config.data.root).expanduser()
  if not (root / 'train').is_dir():
    return root
  if split == 'test' and not (root / 'test').is_dir():
    return root / 'val'
  return root / split


def _classes(config: ConfigDict, files: Iterable[str]) -> list[str]:
  """Returns the sorted classes of all splits, given the files of one.

  A class has the same number in each split, also in one that lacks others.
  """
  found = {name.split('/')[0] for name in files if '/' in name}
  root = stores.path(config.data.root).expanduser()
  parts = [root / split for split in ('train', 'val', 'test')]
  if parts[0].is_dir():  # else all splits are the same files
    found.update(*(listing.folders(x) for x in parts if x.is_dir()))
  return sorted(found)


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  if not config.data.root:
    return ['the folder of images (config.data.root is empty)']
  lines = []
  captions = (
    config.condition.task == 'text' or config.condition.also == 'camera'
  )
  for split in splits:
    base = folder(config, split)
    if not base.is_dir():
      lines.append(f'{base} (image folder, config.data.root)')
    elif captions and not (base / listing.CAPTIONS).is_file():
      lines.append(f'{base / listing.CAPTIONS} (captions, config.data.root)')
  return list(dict.fromkeys(lines))


def load_entries(path: pathlib.Path) -> dict[str, tuple[int, dict[str, Any]]]:
  """Reads lines {"file": ..., "caption": ...}; of a file, the first counts.

  Returns:
    The number of the line and the whole entry by file.

  Raises:
    UserError: a line is something else; the message has its number.
  """
  entries: dict[str, tuple[int, dict[str, Any]]] = {}
  for number, line in annotation_files.load_lines(path):
    try:
      entry = json_text.loads(line, most=limits.LINE_CHARACTERS)
    except ValueError:
      entry = None
    if not isinstance(entry, dict) or not all(
      isinstance(entry.get(key), str) for key in ('file', 'caption')
    ):
      annotation_files.fail(
        path,
        f'line {number}',
        f'must be {{"file": TEXT, "caption": TEXT}}, got {line!r:.60}',
      )
    if len(entry['caption']) > limits.TEXT_CHARACTERS:
      annotation_files.fail(
        path,
        f'line {number}',
        f'has a caption of {len(entry["caption"])} characters, at most'
        f' {limits.TEXT_CHARACTERS} are read',
      )
    name = pathlib.PurePosixPath(entry['file']).as_posix()
    entries.setdefault(name, (number, entry))
  return entries


def load_cameras(path: pathlib.Path) -> dict[str, dict[str, int]]:
  """Reads the ids of the cameras from the same lines.

  Raises:
    UserError: an unknown value; the message has its line.
  """
  cameras: dict[str, dict[str, int]] = {}
  for name, (number, entry) in load_entries(path).items():
    try:
      cameras[name] = camera.ids(entry)
    except ValueError as error:
      annotation_files.fail(path, f'line {number}:', f'{error}')
  return cameras


class ImageFolderReader(file_reader.FileReader):
  """Reads a folder of images (see the module and `reader.Reader`).

  Examples have what `FileReader.cut` returns (`id` is the place in the sorted
  list) and `class` (0 = none); with the task 'text' what `text_arrays`
  returns; with 'map' `mask`; with `config.data.maps` the maps in it; with the
  second condition 'camera' its attributes, 0 = not known; with buckets
  `aspect`, the logarithms of height and width over `image_size`. Images are
  turned as their EXIF data say and resized with antialiasing.
  """

  def __init__(self, config: ConfigDict, split: str):
    """Lists the files.

    Raises:
      ValueError: no images, a task that needs boxes, or malformed captions.
      FileNotFoundError: the folder or the captions are missing.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    reader_lib.check_task(config, TASKS)
    self._folder = folder(config, split)
    self._listed = folder_index.find_images(
      self._folder,
      f'{self._folder} (config.data.root)',
      index_cache.folder(config),
    )
    self._files = self._listed.files
    absent: dict[str, int] = {}
    self._captions: dict[str, str] = {}
    self._cameras: dict[str, dict[str, int]] | None = None
    captions = self._folder / listing.CAPTIONS
    if config.condition.also == 'camera':
      self._cameras = listing.matched(
        self._files, load_cameras(captions), str(captions)
      )
    if config.condition.task == 'text':
      texts = {k: e['caption'] for k, (_, e) in load_entries(captions).items()}
      self._captions = listing.matched(self._files, texts, str(captions))
      absent['without_caption'] = self._keep(
        self._captions, f'{captions} has no caption', ''
      )
    self._map_files: dict[str, str] = {}
    if 'mask' in reader_lib.wanted_maps(config):
      self._map_files = listing.maps(self._folder, self._files)
      absent['without_map'] = self._keep(
        self._map_files,
        f'{self._folder} has no semantic map',
        f'; the map of a.jpg is a{listing.MAP}',
      )
    classes = _classes(config, self._files)
    self._labels, self.label_names = category_lists.numbered(
      config, {name: listing.normal_form(name) for name in classes}
    )
    unlisted = {name for name in classes if not self._labels[name]}
    if unlisted:
      absent['without_category'] = self._keep(
        [x for x in self._files if x.split('/')[0] not in unlisted],
        f'{self._folder} has no category',
        '',
      )
    count = len(self._files)
    super().__init__(config, split, count, 'bicubic')
    named = [
      *self._files,
      *(self._map_files[x] for x in self._files if self._map_files),
    ]
    self._checksums = checksums.Checksums(config, self._folder, named)
    self.report |= {what: number for what, number in absent.items() if number}
    self.id_counts = id_ranges.counts(config, self.label_names, self.tokenizer)
    self._classes = config.condition.map_classes
    if config.data.buckets and split == 'train':
      self.buckets = self._make_buckets(config)
    logging.info('%d images of %s in %s', count, split, self._folder)

  def identity(self) -> identity.Identity:
    """Returns the images, their maps and captions; see `reader.Reader`."""
    has_captions = self._captions or self._cameras is not None
    described = [listing.CAPTIONS] if has_captions else []
    paths = {name: self._folder / name for name in described}
    return {
      identity.IMAGES: self._listed.sizes(self._files),
      identity.MAPS: identity.sizes(self._folder, self._map_files.values()),
      identity.FILES: {
        **identity.of_files(paths),
        **identity.of_config(self._config),
      },
      identity.CHECKSUMS: identity.of_checksums(self._config),
    }

  def captions(self) -> Iterable[str]:
    """Returns the texts that examples may have."""
    return self._captions.values()

  def _keep(self, having: Container[str], lacks: str, hint: str) -> int:
    """Leaves out the files that lack something, and returns how many."""
    count = len(self._files)
    files = [name for name in self._files if name in having]
    if not files:
      raise errors.UserError(
        f'{lacks} of any of the {count} images{hint}.', errors.DATA
      )
    self._files = files
    return count - len(files)

  def _make_buckets(self, config: ConfigDict) -> buckets.Buckets:
    """Reads the sizes of all images and puts them into buckets."""
    d, c = config.data, config.condition
    if d.maps:
      raise ValueError(
        f'config.data.buckets is {d.buckets}, must be 0 with config.data.maps'
        f' = {tuple(d.maps)}: maps are squares'
      )
    if (
      c.task not in BUCKET_TASKS
      or c.also == 'superres'
      or d.crop not in transforms.SHAPED
    ):
      raise ValueError(
        f'config.data.buckets serves the tasks {", ".join(BUCKET_TASKS)} and'
        f' the crops {", ".join(transforms.SHAPED)}; config.condition.task is'
        f' {c.task!r}, config.condition.also {c.also!r}, config.data.crop'
        f' {d.crop!r}'
      )
    allowed = buckets.shapes(d.image_size, d.buckets, d.bucket_ratio)

    def size(name: str) -> buckets.Shape:
      try:
        return images.size(self._folder / name)
      except images.BrokenImage as error:
        if errors.is_transient(error):
          raise errors.UserError(f'{error}.', errors.RESTART) from error
        return (1, 1)  # The rest is reported when it is read.

    def measured() -> np.ndarray:
      with futures.ThreadPoolExecutor(d.workers) as pool:
        return np.array(list(pool.map(size, self._files)))

    sizes = self._listed.pixels(self._files, measured)
    found = buckets.assign(sizes, allowed, config.train.batch_size)
    for shape, members in zip(found.shapes, found.members, strict=True):
      logging.info('%d images of %d x %d px', len(members), *shape[::-1])
    return found

  def loader(
    self, index: int, draw: np.uint64
  ) -> Callable[[int], file_reader.Example]:
    """Returns a function that makes an example of the shape of `index`'s."""
    shape = None if self.buckets is None else self.buckets.shape(index)
    return functools.partial(self.example, draw=draw, shape=shape)

  def stacked(self, rows: Sequence[file_reader.Example]) -> file_reader.Example:
    """Returns examples as one batch; see `FileReader.stacked`.

    Raises:
      ValueError: examples of more than one bucket.
    """
    shapes = {row['image'].shape[:2] for row in rows}
    if len(shapes) > 1:
      raise ValueError(
        'config.data.buckets is for training; images of the shapes'
        f' {sorted(shapes)} are no batch, set it to 0'
      )
    return super().stacked(rows)

  def _read_map(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
    path = self._folder / self._map_files[name]
    data = images.load_bytes(path)
    self._checksums.check(self._map_files[name], path, data)
    return class_maps.decode(data, str(path), shape, self._classes)

  def example(
    self, index: int, draw: np.uint64, shape: buckets.Shape | None = None
  ) -> file_reader.Example:
    """Returns one example, or raises `BrokenImage`; see `FileReader.cut`."""
    name = self._files[index]
    path = self._folder / name
    data = images.load_bytes(path)
    self._checksums.check(name, path, data)
    image = self.opened(data, path, upright=True)
    example, crop, flipped = self.cut(image, index, draw, shape)
    label = self._labels[name.split('/')[0]] if '/' in name else 0
    example['class'] = np.asarray(label, np.int32)
    size = self.transform.size
    if shape is not None:
      example['aspect'] = np.log(np.array(shape, np.float32) / size)
    if 'mask' in self._maps:
      classes = self._read_map(name, (image.height, image.width))
      example['mask'] = class_maps.cut(classes, self.transform, crop, flipped)
    if self._cameras is not None:
      ids = self._cameras.get(name, camera.ids({}))
      example |= {k: np.asarray(v, np.int32) for k, v in ids.items()}
    if self._captions:
      example |= self.text_arrays(self._captions[name])
    return example
