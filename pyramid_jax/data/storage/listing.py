"""Which files of a folder are images, and what is left out of it."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
import stat
from typing import TypeVar
import unicodedata

from absl import logging

from pyramid_jax import errors
from pyramid_jax.data.pixels import images
from pyramid_jax.files import remote_path
from pyramid_jax.files import retries
from pyramid_jax.files import stores


MAP = '.map.png'  # what the semantic map of an image ends in
CAPTIONS = 'captions.jsonl'
LAYOUTS = 'layouts.json'
GRAPHS = 'graphs.jsonl'
_BESIDE = (CAPTIONS, LAYOUTS, GRAPHS)  # files that serve images
HIDDEN = 'hidden'
_OF_SYSTEM = ('lost+found',)  # folders of a file system itself
NAMED = 3  # files that are named of those that are left out
# Suffixes of images that are not read; without them they are a warning.
UNREADABLE = (
  *('.heic', '.heif', '.jxl', '.svg', '.psd', '.tga', '.ico', '.icns', '.eps'),
  *('.pdf', '.dng', '.cr2', '.cr3', '.nef', '.arw', '.raw', '.exr', '.hdr'),
)
T = TypeVar('T')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
  """What is in a folder, at any depth."""

  files: list[str]  # paths of the images, sorted
  report: str  # what is left out, for the log; '' for nothing
  is_calm: bool  # whether that is no reason to warn
  folders: dict[str, int]  # times of change in ns as they were listed


def find_images(base: pathlib.Path, name: str) -> list[str]:
  """Returns the paths of all images below a folder, sorted, at least one.

  See `listed`, whose report is logged.

  Args:
    base: the folder.
    name: what the errors call it.

  Raises:
    UserError: there are no images, or a folder cannot be listed.
  """
  found = listed(base)
  say(base, len(found.files), found.report, found.is_calm)
  check(found.files, name)
  return found.files


def listed(base: pathlib.Path) -> Listed:
  """Lists a folder.

  Links are followed, a link to a folder that it lies in is not. A file without
  a suffix is an image if its content is. Semantic maps, captions and hidden
  files are no images. Of objects in a store there are no times of folders.

  Raises:
    UserError: a folder cannot be listed.
  """
  found: list[str] = []
  left_out: dict[str, list[str]] = {}
  folders: dict[str, int] = {}
  is_remote = stores.is_remote(base)
  for path, reason in _objects(base) if is_remote else _walk(base, folders):
    if reason:
      left_out.setdefault(reason, []).append(path)
    else:
      found.append(path)
  parts = [counted(reason, names) for reason, names in left_out.items()]
  calm = all(
    reason == HIDDEN
    or (reason.startswith('files') and not reason.endswith(UNREADABLE))
    for reason in left_out
  )
  return Listed(
    files=sorted(found),
    report=', '.join(sorted(parts)),
    is_calm=calm,
    folders=folders,
  )


def folders(base: pathlib.Path) -> set[str]:
  """Returns the names of the folders in a folder, without hidden ones.

  Raises:
    UserError: it cannot be listed.
  """
  with _named(base):
    if stores.is_remote(base):
      found = remote_path.RemotePath(base).entries()
      names = {x for x, info in found.items() if stat.S_ISDIR(info.st_mode)}
    else:
      names = {x.name for x in _entries(base) if _is(x.is_dir)}
  return {x for x in names if not x.startswith('.') and x not in _OF_SYSTEM}


def say(base: pathlib.Path, count: int, report: str, is_calm: bool) -> None:
  """Logs what is left out of a folder with `count` images, see `Listed`."""
  if report:
    level = logging.INFO if is_calm else logging.WARNING
    text = '%s: %d images are read; left out are %s'
    logging.log(level, text, base, count, report)


def check(files: Sequence[str], name: str) -> None:
  """Raises a UserError if there are no files; see `find_images`."""
  if not files:
    raise errors.UserError(
      f'{name} holds no images; expected files that end in '
      f'{", ".join(images.SUFFIXES)}.',
      errors.MISSING,
    )


def _walk(
  base: pathlib.Path, folders: dict[str, int]
) -> Iterator[tuple[str, str]]:
  """Yields (path below a folder, why it is left out or '' if it is not).

  `folders` gets the times at which the folders were changed, in ns.
  """
  # Folders to list, with the real paths of those that they lie in and their
  # own.
  todo: list[tuple[str, tuple[str, ...]]] = [('', (os.path.realpath(base),))]
  while todo:
    prefix, parents = todo.pop()
    with _named(base / prefix):
      seen = functools.partial(os.stat, base / prefix)
      folders[prefix] = retries.repeat(seen, base / prefix).st_mtime_ns
    for entry in _entries(base / prefix):
      path = f'{prefix}{entry.name}'
      try:
        is_folder = _is(entry.is_dir)
        reason = None if is_folder else _reason(entry)
      except OSError as error:
        raise _unseen(base / path, error) from error
      if not is_folder:
        if reason is not None:
          yield path, reason
        continue
      real = os.path.join(parents[-1], entry.name)
      if entry.is_symlink():
        real = os.path.realpath(entry.path)
      if entry.name.startswith('.') or entry.name in _OF_SYSTEM:
        yield path, HIDDEN
      elif real in parents:
        yield path, 'links to a folder that they lie in'
      else:
        todo.append((f'{path}/', (*parents, real)))


def _objects(base: pathlib.Path) -> Iterator[tuple[str, str]]:
  """Yields what `_walk` does, of a folder of objects."""
  with _named(base):
    paths = sorted(remote_path.tree(remote_path.RemotePath(base)))
  hidden: set[str] = set()
  for path in paths:
    *folders, name = path.split('/')
    left_out = [
      i
      for i, folder in enumerate(folders)
      if folder.startswith('.') or folder in _OF_SYSTEM
    ]
    if left_out:
      hidden.add('/'.join(folders[: left_out[0] + 1]))
      continue
    with _named(base / path):
      reason = _reason_of_name(name, base / path)
    if reason is not None:
      yield path, reason
  for folder in sorted(hidden):
    yield folder, HIDDEN


def _entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
  """Lists a folder; one that cannot be listed does not make a smaller set."""

  def listed() -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
      return list(entries)

  with _named(folder):
    return retries.repeat(listed, folder)


@contextlib.contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
  """Makes a UserError of an OSError: data that cannot be looked at."""
  try:
    yield
  except OSError as error:
    raise _unseen(path, error) from error


def _unseen(path: str | os.PathLike[str], error: OSError) -> errors.UserError:
  return errors.UserError(
    f'{os.fspath(path)}: {error.strerror or error}; without it the data would'
    ' be others.',
    errors.MISSING,
  )


def _is(test: Callable[[], bool]) -> bool:
  """Returns the kind of an entry; links in a circle are of none."""

  def tested() -> bool:
    try:
      return test()
    except OSError as error:
      if error.errno != errno.ELOOP:
        raise
      return False

  try:
    return tested()
  except OSError:
    return retries.repeat(tested, 'a file')


def _reason(entry: os.DirEntry[str]) -> str | None:
  """Returns why a file is no image, '' if it is one, None if it serves one."""
  name = entry.name
  is_odd = not name.startswith('.') and not _serves(name)
  if is_odd and not _is(entry.is_file):
    is_there = os.path.exists(entry.path)
    return 'no regular files' if is_there else 'links that lead nowhere'
  return _reason_of_name(name, entry.path)


def _serves(name: str) -> bool:
  """Whether a file serves images without being one."""
  return name.endswith(MAP) or name in _BESIDE


def _reason_of_name(name: str, path: str | os.PathLike[str]) -> str | None:
  """Returns the reason of a regular file, see `_reason`."""
  if name.startswith('.'):
    return HIDDEN
  if _serves(name):
    return None
  if name.lower().endswith(images.SUFFIXES):
    return ''
  suffix = os.path.splitext(name.lower())[1]
  if suffix:
    return f'files of {suffix}'
  try:
    images.size(stores.path(path))
  except images.BrokenImage as error:
    if isinstance(error.__cause__, OSError) and errors.number(error):
      raise error.__cause__ from error
    return 'files without a suffix'
  return ''


def counted(what: str, names: Sequence[str]) -> str:
  """Returns '5 WHAT (a, b, c, ...)'."""
  shown = [repr(name)[1:-1] for name in sorted(names)[:NAMED]]
  more = ['...'] if len(names) > NAMED else []
  return f'{len(names)} {what} ({", ".join([*shown, *more])})'


def normal_form(name: str) -> str:
  """Returns a name in the form that all its Unicode forms share (NFC)."""
  return unicodedata.normalize('NFC', name)


def matched(
  files: Iterable[str], entries: Mapping[str, T], origin: str
) -> dict[str, T]:
  """Returns the entry of every file that has one.

  A name may be in another Unicode form than that of the file. Entries of
  absent files and files without an entry are logged.

  Args:
    files: names of files.
    entries: by name of a file.
    origin: where the entries come from, for the log.
  """
  files = list(files)
  forms = {normal_form(name): name for name in reversed(list(entries))}
  places = {
    name: name if name in entries else forms.get(normal_form(name), '')
    for name in files
  }
  lacking = [name for name, place in places.items() if not place]
  if lacking:
    logging.warning('%s lacks %s', origin, counted('images', lacking))
  idle = sorted(entries.keys() - places.values())
  if idle:
    text = counted('files that are not there', idle)
    logging.warning('%s names %s', origin, text)
  return {name: entries[place] for name, place in places.items() if place}


def maps(base: pathlib.Path, files: Iterable[str]) -> dict[str, str]:
  """Returns the files of semantic maps by those of their images.

  Images without one are logged.
  """
  wanted = {name: f'{os.path.splitext(name)[0]}{MAP}' for name in files}
  places = located(base, wanted.values())
  found = {n: places[name] for n, name in wanted.items() if name in places}
  absent = [name for name in wanted if name not in found]
  if absent:
    text = counted('images without a semantic map', absent)
    logging.warning('%s: left out are %s', base, text)
  return found


def _names(folder: pathlib.Path) -> list[str]:
  """Returns what a folder has."""
  if stores.is_remote(folder):
    return list(remote_path.RemotePath(folder).entries())
  return os.listdir(folder)


def located(base: pathlib.Path, names: Iterable[str]) -> dict[str, str]:
  """Returns files below a folder by the names that were asked for.

  A name may be in another Unicode form than that of the file. Absent files are
  not in the result; a folder that cannot be listed is a UserError.
  """

  @functools.cache
  def listed(folder: str) -> dict[str, str]:
    try:
      there = retries.repeat(lambda: _names(base / folder), base / folder)
    except (FileNotFoundError, NotADirectoryError):
      return {}
    except OSError as error:
      raise _unseen(base / folder, error) from error
    return {normal_form(x): x for x in there} | {x: x for x in there}

  @functools.cache
  def place(name: str) -> str | None:
    folder, _, last = name.rpartition('/')
    parent = place(folder) if folder else ''
    if parent is None:
      return None
    there = listed(parent)
    file = there.get(last) or there.get(normal_form(last))
    return file and (f'{parent}/{file}' if parent else file)

  places = {name: place(name) for name in names}
  return {name: file for name, file in places.items() if file is not None}
