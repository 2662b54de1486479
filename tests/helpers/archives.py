"""Images and archives that tests write, in the formats of official files."""

from collections.abc import Callable
from collections.abc import Mapping
import io
import os
import pathlib
import tarfile
import zipfile

import numpy as np
from PIL import Image


def pixels(value: int, size: tuple[int, int] = (4, 4)) -> np.ndarray:
  """Returns an image (H, W, 3) uint8 of which every pixel differs.

  Args:
    value: decides the image.
    size: width and height.
  """
  width, height = size
  count = 3 * width * height
  flat = (np.arange(count) * 7 + 31 * value) % 251
  return flat.astype(np.uint8).reshape(height, width, 3)


def encoded(image: np.ndarray, kind: str = 'PNG') -> bytes:
  """Returns the bytes of an image file."""
  stream = io.BytesIO()
  Image.fromarray(image).save(stream, kind)
  return stream.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
  """Returns the bytes of a tar with files in the order that is given."""
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode='w') as tar:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return stream.getvalue()


def zipped(files: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
  """Returns the bytes of a zip with files in the order that is given."""
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, 'w', kind) as archive:
    for name, data in files.items():
      archive.writestr(name, data)
  return stream.getvalue()


def written(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
  """Writes files below a folder."""
  for name, data in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def forked(function: Callable[[], bool]) -> bool:
  """Returns whether a function returns true in a forked process."""
  child = os.fork()
  if not child:
    try:
      os._exit(0 if function() else 1)
    finally:
      os._exit(2)
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
