"""Where the encoded images of a data set are: in a folder, or in archives."""

import bisect
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import functools
import pathlib
from typing import Protocol

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data import identity
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import archives
from pyramid_jax.data.storage import folder_index
from pyramid_jax.files import bounded
from pyramid_jax.files import retries
from pyramid_jax.files import stores


Sizes = Callable[[Sequence[str]], dict[str, int | None]]


class Store(Protocol):
  """Files in the order of their names, each read as a whole."""

  @property
  def names(self) -> Sequence[str]:
    """The names of the files, sorted."""

  def where(self, row: int) -> str:
    """Returns what messages call the file at a position of `names`."""

  def load(self, row: int) -> bytes:
    """Returns its content, or raises `images.BrokenImage`."""

  def head(self, row: int, count: int) -> bytes:
    """Returns its first bytes, at least `count` of them or all."""

  def sizes(self, rows: Iterable[int]) -> dict[str, int | None]:
    """Returns the bytes of files by their names, None where it is not known.

    Raises:
      OSError: storage does not say.
    """


class Folder:
  """The files of one folder (see `Store`).

  Attributes:
    path: the folder.
  """

  def __init__(
    self,
    path: stores.Path,
    names: Sequence[str],
    sizes: Sizes | None = None,
  ):
    """Takes files below a folder.

    Args:
      path: the folder.
      names: sorted paths below it.
      sizes: tells the bytes of some of them; None to ask the file system.
    """
    self.names = names
    self.path = path
    self._sizes = sizes or functools.partial(identity.sizes, path)

  def where(self, row: int) -> str:
    return str(self.path / self.names[row])

  def load(self, row: int) -> bytes:
    return images.load_bytes(self.path / self.names[row])

  def head(self, row: int, count: int) -> bytes:
    path = self.path / self.names[row]

    def read() -> bytes:
      with bounded.opened(path, limits.IMAGE_BYTES) as stream:
        return stream.read(count)

    with images.unreadable(path):
      return retries.repeat(read, path)

  def sizes(self, rows: Iterable[int]) -> dict[str, int | None]:
    return self._sizes([self.names[row] for row in rows])


def opened(
  path: stores.Path, cache: pathlib.Path, suffixes: Sequence[str] = ()
) -> Store:
  """Returns the files of a folder or of an archive.

  Args:
    path: the folder or the archive.
    cache: see `index_cache.folder`.
    suffixes: of files that are no images and are sought, too, in the folder
      itself alone.

  Raises:
    UserError: there are none, or the archive or folder cannot be read.
  """
  name = f'{path} (config.data.root)'
  if archives.is_archive(path):
    return archives.Archives([path], name, cache)
  others = [x for x in stores.names(path) if x.endswith(tuple(suffixes))]
  if suffixes and others:
    return Folder(path, others)
  found = folder_index.find_images(path, name, cache)
  return Folder(path, found.files, found.sizes)


def rows(store: Store, suffixes: Sequence[str], where: object) -> list[int]:
  """Returns the positions of the files of a kind, at least one.

  `suffixes` are in small letters; hidden files are left out.

  Raises:
    UserError: there are none; `where` they were sought.
  """
  ends = tuple(suffixes)
  found = [
    row
    for row, name in enumerate(store.names)
    if name.lower().endswith(ends) and name.rpartition('/')[2][0] != '.'
  ]
  if not found:
    raise errors.UserError(
      f'{where} (config.data.root) has no files that end in {", ".join(ends)}.',
      errors.MISSING,
    )
  return found


def find(store: Store, name: str) -> int | None:
  """Returns the position of a name, None if there is no such file."""
  row = bisect.bisect_left(store.names, name)
  is_there = row < len(store.names) and store.names[row] == name
  return row if is_there else None


def below(store: Store, folder: str) -> tuple[int, int] | None:
  """Returns the range of the positions of what a folder has, or None.

  `folder` ends in a slash.
  """
  first = bisect.bisect_left(store.names, folder)
  last = bisect.bisect_left(store.names, f'{folder[:-1]}0')  # '0' follows '/'.
  return (first, last) if first < last else None
