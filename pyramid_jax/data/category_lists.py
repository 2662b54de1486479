"""Lists of categories, by which data number theirs as published models do.

Data number their categories by themselves, unless `config.data.category_file`
names a list: a file of rows 'ID,Name', or one of this package.

  coco        things 1-90 and stuff 92-182 (cocodataset.org); 183 is 'other'
  imagenet    the 1000 synsets of ILSVRC 2012, with the names of
              CompVis/latent-diffusion: data/imagenet_clsidx_to_label.txt, each
              cut at the first comma, three of them changed to be unique
  openimages  the 601 boxable classes of Open Images V4-V7
              (storage.googleapis.com/openimages, class-descriptions-boxable;
              CC BY 4.0, Google)
  visual_genome  the 178 names of objects that google/sg2im leaves of Visual
              Genome, most frequent first, and '__image__' (visualgenome.org;
              CC BY 4.0)
"""

from collections.abc import Hashable
from collections.abc import Mapping
from collections.abc import Sequence
import csv
import pathlib
from typing import TypeVar

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.data.storage import listing


FOLDER = pathlib.Path(__file__).parent / 'lists'
LISTS = ('coco', 'imagenet', 'openimages', 'visual_genome')
SUBSETS = ('layout', 'all')  # of the categories of Open Images
UNLISTED = ('append', 'drop')  # what becomes of categories that no row has
FIELD = 'config.data.category_file'
_SUITCASE = '/m/01s55n'  # comes last

Id = TypeVar('Id', bound=Hashable)


def path_of(name: str) -> pathlib.Path:
  """Returns the path of a list of this package, or of a file of one's own."""
  if name in LISTS:
    return FOLDER / f'{name}.csv'
  return files.local(name, FIELD)


def read(path: pathlib.Path) -> Mapping[str, str]:
  """Reads rows 'ID,Name'; another row is a UserError."""
  names = {}
  for number, line in annotation_files.load_lines(path):
    try:
      row = next(csv.reader([line]))
    except csv.Error:
      row = []
    if len(row) != 2:
      annotation_files.fail(
        path, f'line {number}', f'must be ID,Name, got {line!r:.60}'
      )
    names[row[0]] = row[1]
  return {key: listing.normal_form(name) for key, name in names.items()}


def numbered(
  config: ConfigDict, categories: Mapping[Id, str]
) -> tuple[dict[Id, int], tuple[str, ...]]:
  """Returns `number` of the categories of the data, by `config.data`."""
  name, unlisted = config.data.category_file, config.data.unlisted_categories
  return number(categories, read(path_of(name)) if name else None, unlisted)


def ranks(ids: Sequence[str]) -> dict[str, int]:
  """Maps category ids to labels 1, 2, ... in the order of their STRINGS.

  '1', '10', '11', '2', ...; '/m/01s55n' (the suitcase of Open Images) goes
  last (taming-transformers: annotated_objects_dataset.py).
  """
  ordered = sorted(ids, key=lambda i: (i == _SUITCASE, i))
  return {category: 1 + rank for rank, category in enumerate(ordered)}


def number(
  categories: Mapping[Id, str],
  listed: Mapping[str, str] | None = None,
  unlisted: str = 'append',
) -> tuple[dict[Id, int], tuple[str, ...]]:
  """Returns the labels of categories, and the names by label.

  Without a list categories are numbered by `ranks`. With one, a category takes
  the label of the row of the same id, or of the same name (lower case, spaces
  or dashes); the others follow after all rows (Frido:
  annotated_objects_coco.py, `OI_cate_path`), or have the label 0.

  Args:
    categories: id -> name, of the data.
    listed: id -> name, of the list.
    unlisted: one of `UNLISTED`.

  Returns:
    Id -> label, and the names by label, the first of which is padding.

  Raises:
    UserError: all categories are left out.
  """
  listed = listed or {}
  known: dict[str, str] = {}
  for space in ('-', ' '):
    for key, name in listed.items():
      known.setdefault(name.lower().replace(' ', space), key)
  rows = {
    category: str(category)
    if str(category) in listed
    else known.get(name.lower())
    for category, name in categories.items()
  }
  if unlisted == 'drop' and listed and not any(rows.values()):
    some = ', '.join(repr(name) for name in list(categories.values())[:3])
    raise errors.UserError(
      f'{FIELD}: none of its {len(listed)} categories is in the data, which'
      f' have {some}; empty, the data number their own.',
      errors.DATA,
    )
  numbers = ranks(list(listed))
  names = dict(listed)
  rest = {str(i): i for i, row in rows.items() if row is None}
  appended = ranks(list(rest)) if unlisted == 'append' else {}
  for key, rank in appended.items():
    numbers[key] = rank + len(listed)
    names[key] = categories[rest[key]]
  labels = {i: numbers.get(row or str(i), 0) for i, row in rows.items()}
  ordered = sorted(numbers, key=lambda key: numbers[key])
  return labels, ('', *(names[key] for key in ordered))
