"""Files that are whole whenever someone reads them.

A file is written under a private name beside it and renamed. So a link in its
place is replaced, and what it leads to is never written. An object of a store
is written on a local disk first and sent as a whole.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import contextlib
import functools
import os
import pathlib
import re
import secrets
import shutil
import tempfile
from typing import IO

import numpy as np
from PIL import Image

from pyramid_jax import errors
from pyramid_jax.files import releases
from pyramid_jax.files import retries
from pyramid_jax.files import stores


SUFFIX = '.tmp'  # of files that are being written
# The private name of a file; its group is the name.
PRIVATE = re.compile(r'\.(.+)\.[0-9a-f]{8}\.tmp', re.DOTALL)
_SENDERS = 16  # images that are sent at once
_LONGEST = 100  # letters of a name: it may be as long as the system allows

Path = str | os.PathLike[str]


@contextlib.contextmanager
def private(path: stores.Path, durable: bool = True) -> Iterator[pathlib.Path]:
  """Gives the name under which a file is written before it gets its own.

  It is `.NAME.TOKEN.tmp`, where the token is drawn at random, so that two
  processes can write the same file. What fails leaves nothing behind.

  Args:
    path: in an existing folder, or in a store.
    durable: whether the file is on the disk before it gets its name.

  Raises:
    OSError: the file cannot be written.
  """
  if stores.is_remote(path):
    with _sent(path) as aside:
      yield aside
    return
  token = secrets.token_hex(4)
  aside = path.with_name(f'.{path.name[:_LONGEST]}.{token}{SUFFIX}')
  remove = functools.partial(aside.unlink, missing_ok=True)
  try:
    with releases.released(remove):
      yield aside
      if durable:
        with aside.open('rb') as file:
          os.fsync(file.fileno())
      os.replace(aside, path)
  except BaseException:
    with contextlib.suppress(OSError):
      aside.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def _sent(path: stores.Path) -> Iterator[pathlib.Path]:
  """Gives the name of a local file that is sent to a store in the end."""
  with tempfile.TemporaryDirectory(prefix='pyramid_jax_') as folder:
    remove = functools.partial(shutil.rmtree, folder, ignore_errors=True)
    with releases.released(remove):
      aside = pathlib.Path(folder) / 'object'
      yield aside
      stores.put_file(path, aside)


def remove_left(path: stores.Path) -> None:
  """Removes what processes left that were killed as they wrote a file.

  Only for a file that nobody else writes. In a store there is nothing.

  Raises:
    OSError: it cannot be removed.
  """
  for name in () if stores.is_remote(path) else stores.names(path.parent):
    match = PRIVATE.fullmatch(name)
    if match and match[1] == path.name[:_LONGEST]:
      stores.remove(path.with_name(name))


def save(
  path: Path, write: Callable[[IO[bytes]], object], durable: bool = True
) -> None:
  """Writes a file, again if storage fails for a moment.

  Args:
    path: in an existing folder.
    write: writes the content into an open file; may be called again.
    durable: whether the file is on the disk before it gets its name.

  Raises:
    UserError: the file cannot be written.
  """

  def once() -> None:
    with private(stores.path(path), durable) as aside, aside.open('wb') as f:
      write(f)

  with errors.writing(path):
    retries.repeat(once, path)


def save_text(path: Path, text: str) -> None:
  """Writes a text, see `save`; it must be one of UTF-8."""
  save(path, lambda file: file.write(text.encode()))


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an .npz, see `save`."""
  save(path, lambda file: np.savez(file, **dict(arrays)))  # type: ignore


def save_png(path: Path, image: np.ndarray) -> None:
  """Writes an (H, W, 3) uint8 image, see `save`."""
  write = lambda file: Image.fromarray(image).save(file, format='PNG')
  save(path, write, durable=False)


def save_pngs(
  paths: Sequence[stores.Path], images: Sequence[np.ndarray]
) -> None:
  """Writes (H, W, 3) uint8 images, several at once into a store."""
  if not (paths and stores.is_remote(paths[0])):
    for path, image in zip(paths, images, strict=True):
      save_png(path, image)
    return
  with futures.ThreadPoolExecutor(_SENDERS) as pool:
    for _ in pool.map(save_png, paths, images):
      pass


def remove_empty(folder: stores.Path) -> None:
  """Removes a folder that is empty, if that is possible."""
  if not stores.is_remote(folder):  # where there are none
    with contextlib.suppress(OSError):
      folder.rmdir()


def make_folder(folder: stores.Path, within: stores.Path | None = None) -> None:
  """Makes a folder, and those above it, if they are not there.

  A store has none, and nothing is done.

  Args:
    folder: of the files to be written.
    within: a folder above it that is not made: a workdir that was moved away
      does not begin anew where it was.

  Raises:
    UserError: it cannot be made.
  """

  if stores.is_remote(folder):
    return

  def once() -> None:
    if within is not None:
      within.stat()
    folder.mkdir(parents=True, exist_ok=True)

  with errors.writing(folder):
    retries.repeat(once, folder)
