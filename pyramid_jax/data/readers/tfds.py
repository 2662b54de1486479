"""Data sets that TensorFlow Datasets has prepared; TensorFlow is not needed.

`config.data.name` is 'tfds/imagenet2012', 'tfds/lsun/bedroom' and so on,
`config.data.root` the folder that holds them, ~/tensorflow_datasets if empty.
Nothing is downloaded here. The files must be of the format array_record, which
can be read at any place:

  tfds build imagenet2012 --file_format=array_record

What an example holds depends on the features that are there: an `image`, a
`label`, a `caption` or `captions`, and `objects` with `bbox` and `label`.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import pathlib
import re
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data import category_lists
from pyramid_jax.data import file_reader
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.objects import annotated_objects
from pyramid_jax.data.pixels import images
from pyramid_jax.files import copies
from pyramid_jax.files import json_text
from pyramid_jax.files import remote_path
from pyramid_jax.files import stores


TASKS = ('none', 'class', 'text', 'layout', 'superres', 'inpaint')
ROOT = '~/tensorflow_datasets'
INFO = 'dataset_info.json'
FORMAT = 'array_record'
OBJECTS = ('objects', 'bobjects')
TEXTS = ('caption', 'captions', 'text')
# Where each split looks, in this order.
_NAMES = {
  'train': ('train',),
  'val': ('validation', 'val', 'test', 'train'),
  'test': ('test', 'validation', 'val', 'train'),
}


def folder(config: ConfigDict) -> pathlib.Path:
  """Returns the folder of the newest version of the configured set."""
  root = stores.path(config.data.root or ROOT).expanduser()
  name = pathlib.PurePosixPath(config.data.name.partition('/')[2])
  if not name.parts or name.is_absolute() or '..' in name.parts:
    raise errors.UserError(
      f'config.data.name is {config.data.name!r}, must be tfds/NAME or'
      ' tfds/NAME/CONFIG of a set in config.data.root.'
    )
  base = root / name
  versions = [path.parent for path in base.glob(f'*/{INFO}')]
  if (base / INFO).is_file() or not versions:
    return base
  # 10 comes after 9.
  number = lambda path: [(len(part), part) for part in path.name.split('.')]
  return max(versions, key=number)


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' if the set is not there."""
  del splits  # all are in one folder
  path = folder(config)
  if (path / INFO).is_file():
    return []
  name = config.data.name.partition('/')[2]
  return [
    f'{path} (from "tfds build {name} --file_format={FORMAT}", '
    'config.data.root)'
  ]


def check_info(path: pathlib.Path) -> None:
  """Raises a UserError unless a folder says that it is of `FORMAT`."""
  with errors.user_errors(value=errors.DATA):
    info = json_text.read(path / INFO)
  if not isinstance(info, dict):
    raise errors.UserError(
      f'{path / INFO} is not JSON of TensorFlow Datasets.', errors.DATA
    )
  found = info.get('fileFormat', 'tfrecord')
  if found != FORMAT:
    raise errors.UserError(
      f'{path} is stored as {found}, must be {FORMAT}: build it with'
      f' --file_format={FORMAT}.',
      errors.DATA,
    )


def _builder(path: pathlib.Path) -> tuple[Any, Any]:
  """Returns the library and the builder of a folder."""
  check_info(path)
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise errors.UserError(
      f'config.data.name = tfds/... needs a library: {error}; install'
      " 'pyramid_jax[tfds]'."
    ) from error
  return tfds, tfds.builder_from_directory(_metadata(path))


def _metadata(path: pathlib.Path) -> pathlib.Path:
  """Returns a local folder that describes a set; the library needs one."""
  if not stores.is_remote(path):
    return path
  place = remote_path.RemotePath(path)
  return copies.mirrored(
    place, [x for x in place.entries() if f'.{FORMAT}-' not in x]
  )


def _fetch(path: pathlib.Path, info: Any, split: str) -> None:
  """Fetches the records of a split into the folder of `_metadata`."""
  if stores.is_remote(path):
    marks = tuple(f'-{name}.{FORMAT}-' for name in _names(info, split))
    place = remote_path.RemotePath(path)
    names = [x for x in place.entries() if any(m in x for m in marks)]
    copies.mirrored(place, names)


class TfdsReader(file_reader.FileReader):
  """Reads a prepared set (see the module and `reader.Reader`).

  Examples have what `FileReader.cut` returns (`id` is the place in the stored
  order); where the set has them `class` (0 = none) and `object_arrays` of what
  the crop shows; for the task 'text' what `text_arrays` returns.
  """

  def __init__(self, config: ConfigDict, split: str):
    """Opens the files.

    Raises:
      ValueError: a task that the set cannot serve, or a split that is not
        there.
    """
    reader_lib.check_task(config, TASKS)
    path = folder(config)
    tfds, builder = _builder(path)
    features = builder.info.features
    _check_features(config, features)
    name = _split_name(config, split, tuple(builder.info.splits))
    _fetch(path, builder.info, name)
    try:
      self._source = builder.as_data_source(
        name, decoders={'image': tfds.decode.SkipDecoding()}
      )
    except ValueError as error:
      raise ValueError(
        f'config.data.splits has {name!r}, the splits of {path} are '
        f'{", ".join(builder.info.splits)}: {error}'
      ) from error
    super().__init__(config, split, len(self._source), 'bicubic')
    self._identity = _identity_of(builder.info, name, len(self._source))
    self._path = path
    self._places = config.data.max_objects
    self._objects = next((key for key in OBJECTS if key in features), '')
    self._text = next((key for key in TEXTS if key in features), '')
    self._has_class = 'label' in features
    named = features[self._objects]['label'] if self._objects else None
    # The numbers of the set -> labels, where -1 is a label that is hidden.
    self._of_class: Callable[[Any], Any] = _plus_one
    self._of_object: Callable[[Any], Any] = _plus_one
    if self._has_class and config.condition.task != 'layout':
      self._of_class, self.label_names = _numbered(config, features['label'])
    elif named is not None:
      self._of_object, self.label_names = _numbered(config, named)
    else:
      self.label_names = ('',)
    self.id_counts = id_ranges.counts(config, self.label_names, self.tokenizer)
    logging.info('%d images of %s, split %s', len(self), path, name)
    if split != 'train' and name == 'train':
      logging.warning('%s has no split but train, %s reads it', path, split)

  def identity(self) -> identity.Identity:
    """Returns version, split and shards; see `reader.Reader`."""
    lists = identity.of_config(self._config)
    return {**self._identity, identity.FILES: lists}

  def example(self, index: int, draw: np.uint64) -> file_reader.Example:
    """Returns one example, or raises `BrokenImage`."""
    stored = self._source[index]
    where = f'{self._path}, example {index}'
    image = self.opened(stored['image'], where)
    example, crop, flipped = self.cut(image, index, draw)
    if self._has_class:
      example['class'] = np.asarray(self._of_class(stored['label']))
    if self._objects:
      example |= self._boxes(stored[self._objects], crop, flipped)
    if self.tokenizer is not None:
      text = _caption(stored[self._text])
      if len(text) > limits.TEXT_CHARACTERS:
        raise images.BrokenImage(where, f'a text of {len(text)} characters')
      example |= self.text_arrays(text)
    return example

  def captions(self) -> Iterable[str]:
    """Returns the texts that examples may have."""
    for index in range(len(self)):
      text = _caption(self._source[index][self._text])
      if len(text) <= limits.TEXT_CHARACTERS:
        yield text

  def _boxes(
    self, objects: Mapping[str, Any], crop: np.ndarray, flipped: bool
  ) -> file_reader.Example:
    # Stored as y0, x0, y1, x1.
    full = np.array(objects['bbox'], np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]
    labels = self._of_object(np.array(objects['label'], np.int32))
    crowd = objects.get('is_crowd', objects.get('is_group_of'))
    flags = np.zeros(len(labels), np.int32)
    if crowd is not None:
      flags = (np.array(crowd, np.int32) > 0).astype(np.int32)
    seen = annotated_objects.visible(full, crop, self._places)
    boxes = annotated_objects.boxes_in_crop(full[seen], crop, flipped)
    return annotated_objects.object_arrays(
      boxes, labels[seen], flags[seen], self._places
    )


def _names(info: Any, split: str) -> list[str]:
  """Returns the splits of a set that a split or a slice is made of."""
  return [name for name in info.splits if name in re.findall(r'\w+', split)]


def _identity_of(info: Any, split: str, count: int) -> identity.Identity:
  """Returns what a split is made of, by the record of the set.

  `info` is a DatasetInfo, `split` a name or a slice such as 'train[:90%]'.
  """
  names = _names(info, split)
  return {
    identity.SHARDS: {
      f'{name}-{i:05d}': length
      for name in names
      for i, length in enumerate(info.splits[name].shard_lengths)
    },
    identity.SOURCE: {
      'set': info.full_name,  # with its config and version
      'split': split,
      'examples': count,
      'bytes': sum(info.splits[name].num_bytes for name in names),
    },
  }


def _plus_one(numbers: Any) -> Any:
  return np.int32(numbers + 1)


def _numbered(
  config: ConfigDict, feature: Any
) -> tuple[Callable[[Any], Any], tuple[str, ...]]:
  """Returns the numbers of a feature -> labels, and the names by label."""
  names = feature.names
  if not config.data.category_file:
    return _plus_one, ('', *names)
  labels, by_label = category_lists.numbered(config, {n: n for n in names})
  table = np.array([0, *(labels[name] for name in names)], np.int32)
  return lambda numbers: table[numbers + 1], by_label


def _check_features(config: ConfigDict, features: Any) -> None:
  task, name = config.condition.task, config.data.name
  needs = {'class': ('label',), 'text': TEXTS, 'layout': OBJECTS}
  for keys in (('image',), needs.get(task, ('image',))):
    if not any(key in features for key in keys):
      raise ValueError(
        f'config.condition.task = {task} needs the feature '
        f'{" or ".join(keys)}; {name} has {", ".join(features)}.'
      )
  if task == 'layout' and config.condition.encoder != 'boxes':
    raise ValueError(
      f'config.condition.encoder is {config.condition.encoder!r}, must be'
      f" 'boxes' for the layouts of {name}."
    )


def _split_name(config: ConfigDict, split: str, there: tuple[str, ...]) -> str:
  """Returns the split of the set that serves as train, val or test."""
  given = config.data.splits
  if given:
    if len(given) != len(_NAMES):
      raise ValueError(
        f'config.data.splits is {given}, must name what train, val and test'
        ' read.'
      )
    return given[list(_NAMES).index(split)]
  name = next((name for name in _NAMES[split] if name in there), None)
  if name is None:
    raise ValueError(
      f'config.data.splits is empty, must name what train, val and test read:'
      f' the splits of {config.data.name} are {", ".join(there)}.'
    )
  return name


def _caption(value: Any) -> str:
  """Returns the text of a feature; of several, the first."""
  if isinstance(value, Mapping):
    value = value['text']
  if isinstance(value, list | tuple | np.ndarray):
    value = value[0] if len(value) else ''
  is_bytes = isinstance(value, bytes)
  return value.decode(errors='replace') if is_bytes else str(value)
