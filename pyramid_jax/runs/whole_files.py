"""Files that are whole whenever someone reads them.

A file is written under a private name beside it and renamed. So a link in its
place is replaced, and what it leads to is never written.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import functools
import os
import pathlib
import re
import secrets
from typing import IO

import numpy as np
from PIL import Image

from pyramid_jax import errors
from pyramid_jax.files import retries
from pyramid_jax.runs import leaving


SUFFIX = '.tmp'  # of files that are being written
# The private name of a file; its group is the name.
PRIVATE = re.compile(r'\.(.+)\.[0-9a-f]{8}\.tmp', re.DOTALL)
_LONGEST = 100  # letters of a name: it may be as long as the system allows

Path = str | os.PathLike[str]


@contextlib.contextmanager
def private(path: pathlib.Path, durable: bool = True) -> Iterator[pathlib.Path]:
  """Gives the name under which a file is written before it gets its own.

  It is `.NAME.TOKEN.tmp`, where the token is drawn at random, so that two
  processes can write the same file. What fails leaves nothing behind.

  Args:
    path: in an existing folder.
    durable: whether the file is on the disk before it gets its name.

  Raises:
    OSError: the file cannot be written.
  """
  token = secrets.token_hex(4)
  aside = path.with_name(f'.{path.name[:_LONGEST]}.{token}{SUFFIX}')
  remove = functools.partial(aside.unlink, missing_ok=True)
  try:
    with leaving.released(remove):
      yield aside
      if durable:
        with aside.open('rb') as file:
          os.fsync(file.fileno())
      os.replace(aside, path)
  except BaseException:
    with contextlib.suppress(OSError):
      aside.unlink(missing_ok=True)
    raise


def remove_left(path: pathlib.Path) -> None:
  """Removes what processes left that were killed as they wrote a file.

  Only for a file that nobody else writes.

  Raises:
    OSError: it cannot be removed.
  """
  if path.parent.is_dir():
    for found in path.parent.iterdir():
      match = PRIVATE.fullmatch(found.name)
      if match and match[1] == path.name[:_LONGEST]:
        found.unlink(missing_ok=True)


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
    with private(pathlib.Path(path), durable) as aside, aside.open('wb') as f:
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


def make_folder(
  folder: pathlib.Path, within: pathlib.Path | None = None
) -> None:
  """Makes a folder, and those above it, if they are not there.

  Args:
    folder: of the files to be written.
    within: a folder above it that is not made: a workdir that was moved away
      does not begin anew where it was.

  Raises:
    UserError: it cannot be made.
  """

  def once() -> None:
    if within is not None:
      within.stat()
    folder.mkdir(parents=True, exist_ok=True)

  with errors.writing(folder):
    retries.repeat(once, folder)
