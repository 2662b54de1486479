"""Files that make a folder of records one of TensorFlow Datasets.

`tfds.builder_from_directory(FOLDER)` reads it then, without a class of its own:
`features.json`, `dataset_info.json` and the names of labels are written as
tensorflow_datasets 4.9 writes them (core/features, core/dataset_info.py).
"""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any

from pyramid_jax.data.readers import tfds
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files


NAME = 'prepared'
VERSION = '1.0.0'
FEATURES = 'features.json'
_CLASSES = 'tensorflow_datasets.core.features'


def shard_name(split: str, index: int, count: int) -> str:
  """Returns the file of a shard, as TFDS names it."""
  return f'{NAME}-{split}.{tfds.FORMAT}-{index:05d}-of-{count:05d}'


def _feature(module: str, name: str, **fields: Any) -> dict[str, Any]:
  return {'pythonClassName': f'{_CLASSES}.{module}.{name}', **fields}


def _image(side: int, channels: int) -> dict[str, Any]:
  shape = {'dimensions': [str(x) for x in (side, side, channels)]}
  return _feature(
    'image_feature', 'Image', image={'dtype': 'uint8', 'shape': shape}
  )


def _classes(names: Sequence[str]) -> dict[str, Any]:
  return _feature(
    'class_label_feature', 'ClassLabel', classLabel={'numClasses': len(names)}
  )


def _dict(features: Mapping[str, Any]) -> dict[str, Any]:
  return _feature(
    'features_dict', 'FeaturesDict', featuresDict={'features': features}
  )


def _objects(names: Sequence[str]) -> dict[str, Any]:
  box = {
    'bboxFormat': 'REL_YXYX',
    'dtype': 'float32',
    'shape': {'dimensions': ['4']},
  }
  flag = {'dtype': 'bool', 'encoding': 'none', 'shape': {}}
  one = {
    'bbox': _feature('bounding_boxes', 'BBoxFeature', boundingBox=box),
    'label': _classes(names),
    'is_crowd': _feature('scalar', 'Scalar', tensor=flag),
  }
  return _feature(
    'sequence_feature',
    'Sequence',
    sequence={'feature': _dict(one), 'length': '-1'},
  )


def write(
  folder: stores.Path,
  features: Sequence[str],
  names: Sequence[str],
  image_size: int,
  splits: Mapping[str, Sequence[tuple[int, int]]],
  about: str,
) -> None:
  """Writes the description of a set; the file that makes it count comes last.

  Args:
    folder: of the shards.
    features: of 'image', 'label', 'caption', 'objects', 'mask' and 'facts'
      those that the records have.
    names: of the labels, without padding.
    image_size: both sides of all images.
    splits: (records, bytes) of the shards, by split.
    about: one line about the set.
  """
  text = _feature('text_feature', 'Text', text={})
  known = {
    'image': _image(image_size, 3),
    'mask': _image(image_size, 1),
    'caption': text,
    'facts': text,
    'label': _classes(names),
    'objects': _objects(names),
  }
  chosen = {name: known[name] for name in features}
  labels = {'label': 'label', 'objects': 'objects-label'}
  for name in labels.keys() & chosen.keys():
    lines = ''.join(f'{x}\n' for x in names)
    whole_files.save_text(folder / f'{labels[name]}.labels.txt', lines)
  _save(folder / FEATURES, _dict(chosen))
  template = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
  info = {
    'name': NAME,
    'version': VERSION,
    'description': about,
    'fileFormat': tfds.FORMAT,
    'splits': [
      {
        'name': split,
        'filepathTemplate': template,
        'numBytes': str(sum(size for _, size in shards)),
        'shardLengths': [str(count) for count, _ in shards],
      }
      for split, shards in splits.items()
    ],
  }
  _save(folder / tfds.INFO, info)


def _save(path: stores.Path, value: Any) -> None:
  whole_files.save_text(path, json.dumps(value, indent=2) + '\n')
