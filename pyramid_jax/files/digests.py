"""The SHA-256 of files and objects, which are read in pieces."""

import hashlib
import os

from pyramid_jax.files import remote_path
from pyramid_jax.files import stores


_PART = 32 << 20  # bytes of a request


def sha256(name: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file or an object; OSError if it is not read."""
  if not stores.is_remote(name):
    with open(name, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  path, found = remote_path.RemotePath(name), hashlib.sha256()
  size = path.stat().length
  for start in range(0, size, _PART):
    found.update(path.part(start, min(start + _PART, size)))
  return found.hexdigest()
