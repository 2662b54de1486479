"""Which data set a folder holds, by the files that only that one has.

A reader that lacks its files names the data set that is there instead.
"""

from collections.abc import Iterable
import pathlib

from pyramid_jax.files import stores


# Data set -> patterns of files of annotations, relative to its folder.
_FILES = {
  'coco': (
    'annotations/instances_*.json',
    '20??/annotations/instances_*.json',
    'coco/20??/annotations/instances_*.json',
  ),
  'openimages': (
    '*-annotations-bbox.csv',
    'annotations/*-annotations-bbox.csv',
    '*/labels/detections.csv',
  ),
  'visual_genome': ('image_data.json', 'relationships.json'),
}
TITLES = {
  'coco': 'COCO',
  'openimages': 'Open Images',
  'visual_genome': 'Visual Genome',
}


# A file or a folder of a data set, and what it is for the user.
Part = tuple[pathlib.Path, str]


def missing(
  root: str, name: str, files: Iterable[Part], folders: Iterable[Part] = ()
) -> list[str]:
  """Returns 'path (what it is)' of what a data set lacks, each one once.

  Args:
    root: `config.data.root`.
    name: the data set, see `TITLES`.
    files: what has to be files.
    folders: what has to be folders.
  """
  if not root:
    return [f'the folder of {TITLES[name]} (config.data.root is empty)']
  parts = (
    *((path, what, path.is_dir) for path, what in folders),
    *((path, what, path.is_file) for path, what in files),
  )
  lines = [
    f'{path} ({what})' for path, what, is_there in parts if not is_there()
  ]
  return [*_other(root, name), *dict.fromkeys(lines)] if lines else []


def _other(root: str, name: str) -> list[str]:
  """Returns a line that names the other data set in a folder, or nothing.

  Args:
    root: `config.data.root`.
    name: the data set that was expected there.
  """
  base = stores.path(root).expanduser()
  if stores.is_remote(base):  # A search would list all of its objects.
    return []
  for found, patterns in _FILES.items():
    files = [x for pattern in patterns for x in _matches(base, pattern)]
    if found != name and files:
      return [
        f'{TITLES[name]} in {root}, which holds {TITLES[found]} ({files[0]}):'
        f' config.data.name = {found} reads it'
      ]
  return []


def _matches(base: pathlib.Path, pattern: str) -> list[str]:
  try:
    return sorted(str(x.relative_to(base)) for x in base.glob(pattern))
  except OSError:
    return []
