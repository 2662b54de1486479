"""A folder of one's own images, with what the task needs beside them.

For classes, captions, maps, cameras and images alone see
`readers.image_folder`. The tasks 'layout' and 'label' read `layouts.json`, the
task 'scene_graph' `graphs.jsonl`, which `data.own_annotations` describes; the
images that these name are read, others are not. Both lie in the folder of the
split, as `captions.jsonl` does.
"""

from collections.abc import Iterable
import dataclasses
import pathlib

from ml_collections import ConfigDict

from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.objects import annotated_objects
from pyramid_jax.data.objects import object_index
from pyramid_jax.data.objects import own_annotations
from pyramid_jax.data.readers import image_folder
from pyramid_jax.data.storage import listing


_VERSION = 1
# Task -> the file that it reads, and what makes an index of it.
FILES = {
  'layout': (listing.LAYOUTS, own_annotations.layouts),
  'label': (listing.LAYOUTS, own_annotations.layouts),
  'scene_graph': (listing.GRAPHS, own_annotations.graphs),
}


def open_folder(config: ConfigDict, split: str) -> reader_lib.Reader:
  """Returns the reader of a split that serves the task.

  Raises:
    ValueError: no images, or a file beside them that cannot be used.
    FileNotFoundError: the folder or a file is missing.
  """
  if config.condition.task in FILES:
    return OwnObjectsReader(config, split)
  return image_folder.ImageFolderReader(config, split)


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  splits = tuple(splits)
  lines = image_folder.missing_inputs(config, splits)
  if lines or config.condition.task not in FILES:
    return lines
  paths = dict.fromkeys(_file(config, split) for split in splits)
  return [
    f'{path} ({config.condition.task}, config.data.root)'
    for path in paths
    if not path.is_file()
  ]


def _file(config: ConfigDict, split: str) -> pathlib.Path:
  name, _ = FILES[config.condition.task]
  return image_folder.folder(config, split) / name


class OwnObjectsReader(annotated_objects.AnnotatedObjectsReader):
  """Reads images with objects (see the module, `AnnotatedObjectsReader`)."""

  tasks = tuple(FILES)

  def __init__(self, config: ConfigDict, split: str):
    """Indexes the file of the task.

    Raises:
      ValueError: an entry is malformed (the message has its place), or a field
        is out of its range.
      FileNotFoundError: files are missing.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    path = _file(config, split)
    build = FILES[config.condition.task][1]
    given = config.data.category_file
    arrays = index_cache.of_files(
      [path],
      {
        'of': path.name,
        'version': _VERSION,
        'filters': dataclasses.asdict(object_index.Filters.of(config, split)),
        'categories': identity.of_config(config) if given else {},
        'unlisted': config.data.unlisted_categories,
      },
      lambda: build(config, split, path),
      index_cache.folder(config),
    )
    super().__init__(
      config,
      split,
      object_index.Index(**arrays),
      path.parent,
      described={path.name: path},
    )
