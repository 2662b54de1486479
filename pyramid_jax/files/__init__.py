"""Files by name: a path, a file of a repository, or a well-known name.

  weights/vocab.txt                     a path; `~` is the home folder
  gs://BUCKET/FOLDER/vocab.txt          an object of Cloud Storage
  hf://OWNER/NAME/FOLDER/FILE@REVISION  a file of a repository on
                                        huggingface.co; the folder and the
                                        revision may be left out
  bert                                  an entry of `known.KNOWN`

Files of repositories come from the cache of `huggingface_hub` (extra `hub`),
which fetches those that are not there. Without the package or without network,
a file that was put into `known.folder()` by hand serves as well.
HF_HUB_OFFLINE=1 forbids every download.
"""

import os
import pathlib
import re

from pyramid_jax import errors
from pyramid_jax.files import fetching
from pyramid_jax.files import known
from pyramid_jax.files import stores


Path = str | os.PathLike[str]
HUB = 'hf://'
# Fields of the config that do not ask for weights -> what they ask for.
_ROLES = {
  'clip_tokenizer': 'tokenizer',
  'vocab_file': 'vocabulary',
  'merges_file': 'merges',
  'reference': 'statistics',
}


def local(name: Path, what: str) -> pathlib.Path:
  """Returns the path of one file, which is fetched if it has to be.

  Args:
    name: a path, which need not be there; `hf://OWNER/NAME/FILE[@REVISION]`; or
      a key of `known.KNOWN`, unless there is a file (not a folder) so named.
    what: the field or flag that names it, for messages; its last word says
      which file of a well-known name is meant.

  Raises:
    UserError: a name that has no such file, one that is malformed, a file that
      cannot be fetched, or one of another size or hash than the published.
  """
  paths = local_all(name, what)
  if len(paths) > 1:
    raise errors.UserError(
      f'{what}={name} is {len(paths)} files, needed is one.'
    )
  return paths[0]


def local_all(names: Path, what: str) -> list[pathlib.Path]:
  """Returns the paths of one or more files, see `local`.

  `names` are separated by commas, unless there is a file of the whole name.
  """
  text = os.fspath(names)
  whole = pathlib.Path(text).expanduser()
  if ',' in text and not whole.exists():
    return [p for name in text.split(',') for p in local_all(name, what)]
  if text.startswith(HUB):
    return [fetching.fetched(_of_hub(text, what), what)]
  if text in known.KNOWN and not whole.is_file():
    return [fetching.fetched(file, what) for file in _known(text, what)]
  return [stores.path(text) if stores.is_remote(text) else whole]


def missing(name: Path, what: str, kind: str = '') -> str:
  """Returns a line if a file or folder is not there, else ''.

  A file that can be fetched is fetched.

  Args:
    name: as in `local_all`.
    what: as in `local`.
    kind: what the file is, for the line.
  """
  try:
    absent = [p for p in local_all(name, what) if not p.exists()]
  except errors.UserError as error:
    return str(error)
  if not absent:
    return ''
  label = f'{what}, {kind}' if kind else what
  names = [key for key, have in known.KNOWN.items() if _role(what) in have]
  is_word = not re.search(r'[/\\.]', os.fspath(name))
  hint = f'; known names: {", ".join(names)}' if is_word and names else ''
  return f'{absent[0]} ({label}{hint})'


def _role(what: str) -> str:
  return _ROLES.get(re.split(r'[.\-]', what)[-1], 'weights')


def _known(name: str, what: str) -> tuple[known.File, ...]:
  """Returns the files of a well-known name that a field asks for."""
  files, role = known.KNOWN[name], _role(what)
  if role not in files:
    raise errors.UserError(
      f'{what}={name}: {name} has {" and ".join(files)}, no {role}.'
    )
  return files[role]


def _of_hub(name: str, what: str) -> known.File:
  """Reads `hf://OWNER/NAME/PATH[@REVISION]`."""
  path, at, revision = name.removeprefix(HUB).partition('@')
  owner, _, rest = path.partition('/')
  repository, _, inner = rest.partition('/')
  parts = [owner, repository, *inner.split('/')]
  if not all(parts) or set(parts) & {'.', '..'} or bool(at) != bool(revision):
    raise errors.UserError(
      f'{what}={name}: must be {HUB}OWNER/NAME/FILE or'
      f' {HUB}OWNER/NAME/FILE@REVISION.'
    )
  found = known.File(
    repository=f'{owner}/{repository}', path=inner, revision=revision
  )
  for files in known.KNOWN.values():
    for file in [file for some in files.values() for file in some]:
      same = (file.repository, file.path) == (found.repository, found.path)
      if same and revision in ('', file.revision):
        return file
  return found
