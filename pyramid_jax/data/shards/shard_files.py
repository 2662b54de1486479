"""The files of a split, of data sets that consist of a few large files.

`config.data.root` is a folder, or names files in braces, as in
`ROOT/{00000..00099}.tar`. Of a folder with a folder `train` every split reads
the folder of its name (test falls back to `val`). In another folder the names
of the files decide if one begins with `train`, as in `train-00000.tar`;
otherwise every split reads all files. `config.data.splits` names the files of
train, val and test in `root` explicitly.
"""

from collections.abc import Iterable
import pathlib
import re

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.data.shards import brace_names
from pyramid_jax.data.storage import listing
from pyramid_jax.files import stores


SPLITS = {
  'train': ('train',),
  'val': ('validation', 'val', 'test'),
  'test': ('test', 'validation', 'val'),
}
_FIELD = 'config.data.root'


def find(config: ConfigDict, split: str, suffix: str) -> list[pathlib.Path]:
  """Returns the files of a split that end in a suffix; [] if there are none.

  Raises:
    UserError: a root or a pattern that names nothing, or a folder that cannot
      be listed.
  """
  root, given = config.data.root, config.data.splits
  if given:
    if len(given) != len(SPLITS):
      raise errors.UserError(
        f'config.data.splits is {tuple(given)}, must name the files of train,'
        ' val and test.'
      )
    pattern = given[list(SPLITS).index(split)]
    root = f'{root}/{pattern}'
  if brace_names.has_braces(root):
    return [_path(name) for name in brace_names.expanded(root, _FIELD)]
  path = _path(root)
  if path.name.endswith(suffix) and not path.is_dir():
    return [path]
  base = path if given else _folder(path, split)
  names = [x for x in _names(base) if x.endswith(suffix)]
  chosen = names if given else _of_split(names, split)
  return [base / name for name in chosen]


def missing(
  config: ConfigDict, splits: Iterable[str], suffix: str
) -> list[str]:
  """Returns 'path (what it is)' of what the splits lack."""
  if not config.data.root:
    return [f'the files {suffix} of the data ({_FIELD} is empty)']
  lines = []
  for split in splits:
    paths = find(config, split, suffix)
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
      text = listing.counted(f'of {len(paths)} files', absent)
      lines.append(f'{text} ({_FIELD})')
    elif not paths:
      lines.append(
        f'{config.data.root}: no files {suffix} for the split {split} ({_FIELD}'
        ' or config.data.splits)'
      )
  return list(dict.fromkeys(lines))


def _path(name: str) -> pathlib.Path:
  return stores.path(name).expanduser()


def _folder(root: pathlib.Path, split: str) -> pathlib.Path:
  if not (root / 'train').is_dir():
    return root
  names = [x for x in (*SPLITS[split], split) if (root / x).is_dir()]
  return root / (names[0] if names else split)


def _names(folder: pathlib.Path) -> list[str]:
  try:
    return [x for x in stores.names(folder) if not x.startswith('.')]
  except OSError as error:
    code = errors.RESTART if errors.is_transient(error) else errors.MISSING
    raise errors.UserError(f'{errors.reason(error)}.', code) from error


def _of_split(names: list[str], split: str) -> list[str]:
  """Returns the names of a split, all if none begins with `train`."""
  begins = lambda name, word: re.match(rf'{word}(?![a-zA-Z])', name) is not None
  if not any(begins(name, 'train') for name in names):
    return names
  for word in SPLITS[split]:
    chosen = [name for name in names if begins(name, word)]
    if chosen:
      return chosen
  return []
