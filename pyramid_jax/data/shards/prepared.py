"""Images that were cut and resized once: how they lie on disk.

A folder has shards of records (`tf_example`) in array_record, each beside a
`.json` with its SHA-256, `manifest.json`, which says what was cut and how, for
annotated objects `SPLIT.index.npz` (the arrays of `object_index.Index`), and
what makes it a set of TensorFlow Datasets (`tfds_folder`).
`pyramid_jax.commands.prepare` writes it, `readers/records` reads it.

A record has `image`, the encoded image; of what the data have also `label` (-1
for none), `caption`, `objects` in the crop and `mask`, as TFDS names and
numbers them; and `facts`, an object of JSON with `crop`, that of the full image
in float64, and `fields`, other numbers of the example.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import identity as identity_lib
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.readers import tfds
from pyramid_jax.data.shards import tfds_folder
from pyramid_jax.files import arrays
from pyramid_jax.files import copies
from pyramid_jax.files import digests
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files


FORMAT = 1
COMMAND = 'python -m pyramid_jax.commands.prepare'
WRITER = 'group_size:1,uncompressed'  # one record at a time can be read
# How images are encoded: what Pillow needs for it. The first is exact and the
# fastest to read; 'png' and 'webp' are exact in half the bytes; 'jpeg' is not.
ENCODINGS: Mapping[str, Mapping[str, Any]] = {
  'ppm': {'format': 'PPM'},
  'webp': {'format': 'WEBP', 'lossless': True, 'quality': 0, 'method': 0},
  'png': {'format': 'PNG'},
  'jpeg': {'format': 'JPEG', 'quality': 95, 'subsampling': 0},
}
# Fields that decide which images there are and how they are cut: a run must
# have the values with which they were prepared.
FIXED = (
  *('image_size', 'resize', 'fast_decode', 'year', 'use_stuff'),
  *('min_area', 'min_side', 'category_file', 'unlisted_categories'),
)
FIXED_OF: Mapping[bool, tuple[str, ...]] = {  # by whether it is of training
  True: ('crop', 'min_objects', 'max_objects_image', 'ids_file'),
  False: (
    *('eval_crop', 'eval_min_objects', 'eval_max_objects'),
    'eval_ids_file',
  ),
}
# Tasks that need nothing of an image but its pixels.
OF_PIXELS = ('none', 'superres', 'inpaint')
OF_OBJECTS = ('none', 'layout', 'label')


def array_record() -> Any:
  """Returns the modules of the library for files of records.

  Raises:
    UserError: it is not installed.
  """
  try:
    from array_record.python import array_record_data_source
    from array_record.python import array_record_module
  except ImportError as error:
    raise errors.UserError(
      f"prepared images need a library: {error}; install 'pyramid_jax[data]'."
    ) from error
  return array_record_module, array_record_data_source


@dataclasses.dataclass(frozen=True)
class Shard:
  """A file of records."""

  name: str
  count: int
  size: int  # bytes
  sha256: str
  # Image that is broken -> that in its place, both as places in the split.
  replaced: Mapping[int, int]


def fixed_fields(config: ConfigDict, split: str) -> dict[str, Any]:
  """Returns the fields that a split fixes, by name."""
  names = (*FIXED, *FIXED_OF[split == 'train'])
  return {name: config.data[name] for name in names}


def manifest_of(
  config: ConfigDict, readers: Mapping[str, Any], encoding: str, shard_size: int
) -> dict[str, Any]:
  """Says what is prepared, and how.

  Args:
    config: of the data.
    readers: of the splits.
    encoding: a key of `ENCODINGS`.
    shard_size: the records of a shard, but for the last.
  """
  some = next(iter(readers.values()))
  return {
    'format': FORMAT,
    'data': {'name': config.data.name, 'root': config.data.root},
    'task': config.condition.task,
    'also': config.condition.also,
    'maps': list(config.data.maps),
    'encoding': encoding,
    'shard_size': shard_size,
    'token_flags': getattr(some, 'token_flags', None),
    'splits': {
      split: {
        'count': len(reader),
        'label_names': list(reader.label_names),
        'fixed': fixed_fields(config, split),
        'source': identity_lib.facts(reader.identity()),
      }
      for split, reader in readers.items()
    },
  }


def shard_names(split: str, count: int, size: int) -> list[str]:
  """Returns the files of a split with so many records."""
  number = -(-count // size)
  return [tfds_folder.shard_name(split, i, number) for i in range(number)]


def _record_of(folder: stores.Path, name: str) -> stores.Path:
  return folder / f'{name}.json'


def write_shard(
  folder: stores.Path,
  name: str,
  count: int,
  fill: Callable[[Callable[[bytes], None]], Mapping[int, int]],
) -> None:
  """Writes a shard, then the file beside it that makes it count.

  `fill` is called with a function that takes records, and returns which images
  were replaced.
  """
  module, _ = array_record()
  path = folder / name
  whole_files.remove_left(path)
  with whole_files.private(path) as aside:
    writer = module.ArrayRecordWriter(str(aside), WRITER)
    try:
      replaced = fill(writer.write)
    finally:
      writer.close()
    record = {
      'count': count,
      'size': aside.stat().st_size,
      'sha256': digests.sha256(aside),
      'replaced': {str(k): v for k, v in replaced.items()},
    }
  whole_files.save_text(_record_of(folder, name), json.dumps(record) + '\n')


def is_written(folder: stores.Path, name: str) -> bool:
  """Whether a shard is there, with the size of its record."""
  if not _record_of(folder, name).is_file() or not (folder / name).is_file():
    return False
  return shard_of(folder, name).size == (folder / name).stat().st_size


def shard_of(folder: stores.Path, name: str) -> Shard:
  """Returns what the file beside a shard says.

  Raises:
    UserError: it is not there, or damaged.
  """
  file = _record_of(folder, name)
  found = manifests.json_object(file)
  try:
    replaced = {int(k): int(v) for k, v in found['replaced'].items()}
    count, size = int(found['count']), int(found['size'])
    return Shard(name, count, size, str(found['sha256']), replaced)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise errors.UserError(
      f'{file}: damaged ({error!r:.80}); prepare the shard again.', errors.DATA
    ) from error


class Prepared:
  """A split of a prepared folder.

  Attributes:
    folder: of the shards.
    manifest: see `manifest_of`.
    shards: of the split, in order.
    label_names: by label; the first is padding.
  """

  def __init__(self, config: ConfigDict, split: str):
    """Reads the manifest and the records of the shards.

    A split that is not there reads that for validation.

    Raises:
      UserError: a folder that is damaged, incomplete or of another config.
    """
    self.folder = stores.path(config.data.root).expanduser()
    self.manifest = _manifest(self.folder)
    splits = self.manifest['splits']
    self.split = split if split in splits or split == 'train' else 'val'
    if self.split not in splits:
      raise errors.UserError(
        f'{self.folder} has no split {self.split}, only {", ".join(splits)}:'
        ' prepare it.',
        errors.MISSING,
      )
    self.label_names = tuple(splits[self.split]['label_names'])
    self._check(config, splits[self.split]['fixed'])
    self.count: int = splits[self.split]['count']
    size = self.manifest['shard_size']
    names = shard_names(self.split, self.count, size)
    self.shards = [shard_of(self.folder, name) for name in names]
    if sum(x.count for x in self.shards) != self.count:
      raise errors.UserError(
        f'{self.folder}: its shards of {self.split} have not the {self.count}'
        f' records of {manifests.NAME}.',
        errors.DATA,
      )
    self.replaced: dict[int, int] = {}
    for shard in self.shards:
      self.replaced.update(shard.replaced)

  def _check(self, config: ConfigDict, fixed: Mapping[str, Any]) -> None:
    """Raises a UserError for a run that wants other images or other labels."""
    for name, was in fixed.items():
      if name in config.data and config.data[name] != was:
        raise errors.UserError(
          f'config.data.{name} is {config.data[name]!r}, the images in'
          f' {self.folder} were prepared with {was!r:.200}.'
        )
    task, was = config.condition.task, self.manifest['task']
    tasks = {was, *(OF_OBJECTS if self.has_objects else OF_PIXELS)}
    if len(self.label_names) > 1 and not self.has_objects:
      tasks.add('class')
    if task not in tasks:
      raise errors.UserError(
        f'config.condition.task is {task!r}, the images in {self.folder} were'
        f' prepared for {", ".join(sorted(tasks))}.'
      )
    has_mask = was == 'map' or 'mask' in self.manifest['maps']
    if 'mask' in config.data.maps and not has_mask:
      raise errors.UserError(
        f"config.data.maps has 'mask', {self.folder} was prepared without it."
      )
    if config.condition.also not in ('', 'superres', self.manifest['also']):
      raise errors.UserError(
        f'config.condition.also is {config.condition.also!r}, the images in'
        f' {self.folder} were prepared for {self.manifest["also"]!r}.'
      )

  @property
  def has_objects(self) -> bool:
    """Whether the data have annotated objects."""
    return self.manifest.get('token_flags') is not None

  def index(self) -> dict[str, np.ndarray]:
    """Returns the arrays of `object_index.Index`.

    Raises:
      UserError: the file is not there, or damaged.
    """
    file = self.folder / index_name(self.split)
    try:
      return arrays.load(copies.local(file))
    except FileNotFoundError as error:
      raise errors.UserError(f'missing: {file}.', errors.MISSING) from error
    except ValueError as error:
      raise errors.UserError(
        f'{file}: {error}; prepare the images again.', errors.DATA
      ) from error

  def records(self) -> Any:
    """Returns the records, by place; threads may read at the same time."""
    _, sources = array_record()
    instructions = []
    for shard in self.shards:
      path = self.folder / shard.name
      with errors.user_errors(value=errors.DATA, missing=errors.MISSING):
        found = path.stat().st_size
        if found != shard.size:
          raise errors.UserError(
            f'{path} has {found} bytes, must have {shard.size}: prepare it'
            ' again.',
            errors.DATA,
          )
        here = copies.local(path, shard.sha256)
      instructions.append(_Instruction(str(here), 0, shard.count, shard.count))
    return sources.ArrayRecordDataSource(instructions)

  def identity(self) -> identity_lib.Identity:
    """Returns the shards and what they are of; see `reader.Reader`."""
    return {
      identity_lib.SHARDS: {x.name: x.sha256 for x in self.shards},
      identity_lib.SOURCE: self.manifest['splits'][self.split]['source'],
    }


@dataclasses.dataclass(frozen=True)
class _Instruction:
  """What of a file is read, as array_record has it; it is opened when used."""

  filename: str
  skip: int
  take: int
  examples_in_shard: int


def index_name(split: str) -> str:
  """Returns the file of the arrays of `object_index.Index`."""
  return f'{split}.index.npz'


def finish(folder: stores.Path, manifest: Mapping[str, Any]) -> int:
  """Writes what TensorFlow Datasets needs; returns how many were replaced.

  Raises:
    UserError: a shard is not there.
  """
  splits, replaced = {}, 0
  for split, part in manifest['splits'].items():
    names = shard_names(split, part['count'], manifest['shard_size'])
    shards = [shard_of(folder, name) for name in names]
    splits[split] = [(x.count, x.size) for x in shards]
    replaced += sum(len(x.replaced) for x in shards)
  some = next(iter(manifest['splits'].values()))
  names = max((x['label_names'] for x in manifest['splits'].values()), key=len)
  for split, part in manifest['splits'].items():
    if part['label_names'] != names[: len(part['label_names'])]:
      logging.warning(
        'labels of %s are numbered otherwise than those of another split, which'
        ' TensorFlow Datasets cannot know; config.data.category_file numbers'
        ' them alike',
        split,
      )
  tfds_folder.write(
    folder,
    features_of(manifest),
    names[1:],
    some['fixed']['image_size'],
    splits,
    f'{manifest["data"]["name"]}, cut and resized by pyramid_jax',
  )
  return replaced


def features_of(manifest: Mapping[str, Any]) -> list[str]:
  """Returns the features that the records of a folder have."""
  has_objects = manifest['token_flags'] is not None
  found = {
    'image': True,
    'label': not has_objects,
    'caption': manifest['task'] in ('text', 'scene_graph'),
    'objects': has_objects,
    'mask': manifest['task'] == 'map' or 'mask' in manifest['maps'],
    'facts': True,
  }
  return [name for name, is_there in found.items() if is_there]


def _manifest(folder: stores.Path) -> dict[str, Any]:
  """Returns the manifest of a folder that is complete."""
  found = manifests.read(folder, FORMAT, _FIELDS, COMMAND)
  if not (folder / tfds.INFO).is_file():
    raise errors.UserError(
      f'{folder} is not complete: run `{COMMAND}` again.', errors.MISSING
    )
  return found


def _are_splits(value: Any) -> bool:
  if not isinstance(value, dict):
    return False
  return all(
    isinstance(x, dict)
    and type(x.get('count')) is int
    and x['count'] > 0
    and isinstance(x.get('fixed'), dict)
    and _are_texts(x.get('label_names'))
    and isinstance(x.get('source'), dict)
    for x in value.values()
  )


def _are_texts(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(x, str) for x in value)


_FIELDS: manifests.Fields = {
  'task': ('a text', lambda x: isinstance(x, str)),
  'also': ('a text', lambda x: isinstance(x, str)),
  'maps': ('a list of texts', _are_texts),
  'shard_size': ('a number from 1', lambda x: type(x) is int and x >= 1),
  'token_flags': ('null or a number', lambda x: x is None or type(x) is int),
  'splits': ('the counts and labels of splits', _are_splits),
}


def missing_inputs(config: ConfigDict, splits: Sequence[str] = ()) -> list[str]:
  """Returns 'path (what it is)' of what is not there."""
  del splits
  if not config.data.root:
    return ['the folder of prepared images (config.data.root is empty)']
  file = stores.path(config.data.root).expanduser() / manifests.NAME
  there = retries.repeat(file.is_file, file)
  return [] if there else [f'{file} (prepared images, config.data.root)']
