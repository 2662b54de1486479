"""Readers of data sets by name, batching and prefetch."""

from collections.abc import Iterable
import importlib
import types

from ml_collections import ConfigDict

from pyramid_jax import files
from pyramid_jax.conditioning import retrieval
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import category_lists
from pyramid_jax.data import id_ranges
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.caches import neighbours
from pyramid_jax.data.storage import checksums


LATENTS = 'latents'  # cached for training; other splits read their source
RECORDS = 'records'  # prepared images of any reader of files
_READERS = 'pyramid_jax.data.readers'
# name -> (module, class); the class is built as `class(config, split)`, and
# a module whose data are files has `missing_inputs(config, splits)`.
READERS = {
  'shapes': ('pyramid_jax.data.synthetic', 'ShapesReader'),
  'image_folder': (f'{_READERS}.own_images', 'open_folder'),
  'coco': (f'{_READERS}.coco', 'CocoReader'),
  'openimages': (f'{_READERS}.open_images', 'OpenImagesReader'),
  'visual_genome': (f'{_READERS}.visual_genome', 'VisualGenomeReader'),
  'imagenet': (f'{_READERS}.imagenet', 'ImageNetReader'),
  'celebahq': (f'{_READERS}.celebahq', 'CelebAHqReader'),
  'ffhq': (f'{_READERS}.ffhq', 'FfhqReader'),
  'lsun': (f'{_READERS}.lsun', 'LsunReader'),
  'places': (f'{_READERS}.places', 'PlacesReader'),
  'cifar10': (f'{_READERS}.cifar10', 'Cifar10Reader'),
  'ade20k': (f'{_READERS}.map_pairs', 'MapPairsReader'),
  'landscapes': (f'{_READERS}.map_pairs', 'MapPairsReader'),
  'digits': ('pyramid_jax.data.digits', 'DigitsReader'),
  'hdr': (f'{_READERS}.hdr', 'HdrReader'),
  'parquet': (f'{_READERS}.parquet', 'ParquetReader'),
  'tar_shards': (f'{_READERS}.tar_shards', 'TarShardsReader'),
  LATENTS: (f'{_READERS}.latent_cache', 'LatentReader'),
  RECORDS: (f'{_READERS}.records', 'open_records'),
}
WITH_CAMERAS = ('image_folder', LATENTS, RECORDS)
# Other sets have their own.
# Whose images are files of their own, or may be.
WITH_CHECKSUMS = (
  *('image_folder', 'coco', 'openimages', 'visual_genome'),
  *('imagenet', 'celebahq', 'ffhq', 'lsun', 'ade20k', 'landscapes'),
  *('places', 'hdr'),
)
# With semantic maps, the map 'mask' of config.data.maps. Edges are found and
# holes drawn in images of every reader.
WITH_MASKS = ('shapes', 'image_folder', 'coco', 'ade20k', 'landscapes')
SPLITS = ('train', 'val', 'test')
# 'tfds/NAME[/CONFIG]' is what TensorFlow Datasets has prepared.
TFDS = 'tfds/'
TFDS_READER = (f'{_READERS}.tfds', 'TfdsReader')

# Sets that are downloaded as shards, by tools such as img2dataset.
SHARDED = ('conceptual_captions', 'laion')


def _reader(config: ConfigDict) -> tuple[types.ModuleType, str]:
  """Returns the module of the configured reader, and the name of its class."""
  name = config.data.name
  if name in SHARDED:
    raise ValueError(
      f'config.data.name is {name!r}, whose files are shards; use'
      ' config.data.name = tar_shards (or parquet) with config.data.root = the'
      ' folder that holds them, or image_folder with a captions.jsonl.'
    )
  entry = TFDS_READER if name.startswith(TFDS) else READERS.get(name)
  if entry is None:
    raise ValueError(
      f'config.data.name is {name!r}, must be one of {", ".join(READERS)}, '
      f'{TFDS}NAME.'
    )
  return importlib.import_module(entry[0]), entry[1]


def create(config: ConfigDict, split: str) -> reader_lib.Reader:
  """Builds the reader of a split that `config.data.name` names.

  Raises:
    ValueError: unknown name or split, data that cannot be read, or ids beyond
      the tables of the condition.
    FileNotFoundError: files are missing; the message has all of them.
  """
  if split not in SPLITS:
    raise ValueError(f'split is {split!r}, must be one of {", ".join(SPLITS)}.')
  missing = missing_inputs(config, (split,))
  name = config.data.name
  if 'mask' in config.data.maps and name not in (*WITH_MASKS, LATENTS, RECORDS):
    raise ValueError(
      f"config.data.maps is {tuple(config.data.maps)}, must be without 'mask'"
      f' with config.data.name = {name}: {" and ".join(WITH_MASKS)} alone have'
      ' semantic maps.'
    )
  if config.data.checksums and name not in WITH_CHECKSUMS:
    raise ValueError(
      f'config.data.checksums is {config.data.checksums!r}, must be empty with'
      f' config.data.name = {name}: the images of {", ".join(WITH_CHECKSUMS)}'
      ' alone are files of their own.'
    )
  if missing:
    raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
  if name == LATENTS and split != 'train':
    return create(uncached(config), split)
  if config.condition.also == 'camera' and name not in WITH_CAMERAS:
    raise ValueError(
      "config.condition.also is 'camera', which config.data.name ="
      f' {name} does not know; use image_folder.'
    )
  if config.condition.task == retrieval.TASK:
    images = create(neighbours.without(config), split)
    return neighbours.reader_of(config, split, images)
  reader = getattr(*_reader(config))(config, split)
  id_ranges.check(config, reader)
  return reader


def uncached(config: ConfigDict) -> ConfigDict:
  """Returns the config of the images behind cached latents, or itself."""
  if config.data.name != LATENTS:
    return config
  return _reader(config)[0].source(config)


def published_labels(config: ConfigDict) -> tuple[str, ...]:
  """Returns the label names of the data as published, without their files.

  The first one is padding. There are none where the files decide.

  Raises:
    ValueError: unknown `config.data.name`, or a list that cannot be read.
  """
  config = uncached(config)
  find = getattr(_reader(config)[0], 'published_labels', None)
  if find is not None:
    return find(config)
  if not config.data.category_file:
    return ()
  path = category_lists.path_of(config.data.category_file)
  listed = category_lists.read(path)
  return category_lists.number(listed, listed)[1]


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = SPLITS
) -> list[str]:
  """Returns what the reader of these splits and the tokenizer lack.

  Each entry is 'path (what it is and the config field)' of a file or folder.

  Raises:
    ValueError: unknown `config.data.name`, or a field out of its range.
  """
  find = getattr(_reader(config)[0], 'missing_inputs', None)
  if find is None:  # a reader that makes its data
    return []
  lines = [*find(config, splits), *tokenizers.missing_inputs(config)]
  if config.condition.task == retrieval.TASK:
    lines += neighbours.missing_inputs(config, splits)
  listed = config.data.checksums
  line = files.missing(listed, checksums.FIELD) if listed else ''
  return [*lines, line] if line else lines
