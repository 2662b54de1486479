"""Lists of `sha256sum`, by which images are verified as they are read.

  cd ROOT && find . -type f -exec sha256sum {} + > SHA256SUMS

A decoder does not notice every damaged byte. The names in a list are relative
to `config.data.root`, or absolute.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import hashlib
import os
import pathlib
import re

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.data.storage import listing
from pyramid_jax.files import stores


FIELD = 'config.data.checksums'
# A line that begins with \ has escapes in its name.
_LINE = re.compile(r'(\\?)([0-9a-fA-F]{64}) [ *](.+)')
_ESCAPE = re.compile(r'\\([\\nr])')
_CHARACTERS = {'\\': '\\', 'n': '\n', 'r': '\r'}


def path_of(config: ConfigDict) -> pathlib.Path | None:
  """Returns the configured list, None without one."""
  given = config.data.checksums
  return files.local(given, FIELD) if given else None


def load(path: pathlib.Path) -> dict[str, str]:
  """Reads a list: SHA-256 by name.

  Raises:
    UserError: a line is something else; the message has its number.
  """
  sums = {}
  for number, line in annotation_files.load_lines(path):
    match = _LINE.fullmatch(line)
    if match is None:
      annotation_files.fail(
        path, f'line {number}', f'must be SHA256  NAME, got {line!r:.60}'
      )
    name = match[3]
    if match[1]:
      name = _ESCAPE.sub(lambda m: _CHARACTERS[m[1]], name)
    sums[os.path.normpath(name)] = match[2].lower()
  return sums


class Checksums:
  """What the files of a folder must have; empty where no list is configured."""

  def __init__(
    self, config: ConfigDict, folder: pathlib.Path, names: Iterable[str]
  ):
    """Takes the entries of files below a folder.

    Raises:
      UserError: the list lacks some of them, or cannot be read.
    """
    self._sums: Mapping[str, str] = {}
    self._path = path_of(config)
    if self._path is None:
      return
    sums = load(self._path)
    root = stores.path(config.data.root).expanduser()
    below = os.path.relpath(folder, root)
    places = {}
    for name in names:
      near = os.path.normpath(os.path.join(below, name))
      far = os.path.abspath(os.path.join(folder, name))
      places[name] = sums.get(near) or sums.get(far)
    lacking = [name for name, value in places.items() if value is None]
    if lacking:
      text = listing.counted(f'of {len(places)} files in {folder}', lacking)
      raise errors.UserError(
        f'{self._path} ({FIELD}) lacks {text}.', errors.DATA
      )
    self._sums = {name: value for name, value in places.items() if value}

  def check(self, name: str, path: pathlib.Path, data: bytes) -> None:
    """Raises BrokenImage if a file's content is not that of the list."""
    want = self._sums.get(name)
    if want and (got := hashlib.sha256(data).hexdigest()) != want:
      raise images.BrokenImage(
        path, f'SHA-256 {got[:8]}..., {self._path} says {want[:8]}...'
      )
