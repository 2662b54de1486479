"""Tar shards as tools write them, from bytes by name."""

from collections.abc import Mapping
import io
import pathlib
import tarfile

import numpy as np
from PIL import Image


def encoded(colour, size=(8, 6), kind='PNG') -> bytes:
  """Returns the bytes of an image of one colour, (width, height)."""
  stream = io.BytesIO()
  Image.fromarray(np.full((size[1], size[0], 3), colour, np.uint8)).save(
    stream, kind
  )
  return stream.getvalue()


def write(path: pathlib.Path, members: Mapping[str, bytes]) -> pathlib.Path:
  """Writes a tar (of the USTAR format, as webdataset does) in this order."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as tar:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return path
