"""Files that are whole whenever someone reads them."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import secrets
from typing import IO

import numpy as np
from PIL import Image


SUFFIX = '.tmp'  # of files that are being written


@contextlib.contextmanager
def opened(path: pathlib.Path, durable: bool = True) -> Iterator[IO[bytes]]:
  """Opens a file that appears under its name once it is written.

  Until then it is called `.NAME.TOKEN.tmp`, where the token is drawn at random,
  so that two processes can write the same file.

  Args:
    path: in an existing folder.
    durable: whether the file is on the disk before it gets its name.

  Raises:
    OSError: the file cannot be written.
  """
  aside = path.with_name(f'.{path.name}.{secrets.token_hex(4)}{SUFFIX}')
  try:
    with aside.open('wb') as file:
      yield file
      file.flush()
      if durable:
        os.fsync(file.fileno())
    os.replace(aside, path)
  except BaseException:
    with contextlib.suppress(OSError):
      aside.unlink(missing_ok=True)
    raise


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
  """Writes an (H, W, 3) uint8 image; makes its folder if needed."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with opened(path, durable=False) as file:
    Image.fromarray(image).save(file, format='PNG')
