"""The files of samples: written batch by batch, and gone on with after a kill.

A folder has `%06d.png` for each image, and in the end `samples.npz` (images and
conditions), `latents.npz` (scales) and `grid.png`. `request.json` has all that
decides the images. Until the end the rows of the two archives lie in `parts`; a
batch counts once its part is there.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import json
import re
from typing import Any

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax.distributed import processes
from pyramid_jax.files import json_text
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.runs import array_parts
from pyramid_jax.runs import lock


SMALL = 'small'  # The folder of the first model of a cascade, in that of both.
_REQUEST = 'request.json'
_PARTS = 'parts'
_GRID = 'grid.png'
_GRID_COUNT = 64  # images of a grid, at most
# Archive: the prefix of its arrays in a part.
_ARCHIVES = {'samples.npz': 'samples/', 'latents.npz': 'latents/'}
_OTHERS = (*_ARCHIVES, _GRID, _REQUEST)
_PNG = re.compile(r'\d{6,}\.png')
_NAMED = 3  # differences between requests that are said, at most

Rows = dict[str, np.ndarray]
Draw = Callable[[np.ndarray, Rows], np.ndarray]
# (images (B, H, W, 3) uint8, conditions, scales)
Batch = tuple[np.ndarray, Mapping[str, np.ndarray], Sequence[np.ndarray]]


class SampleFiles:
  """The files of one model in a folder that the process has the lock of."""

  def __init__(
    self, folder: stores.Path, record: Mapping[str, Any], count: int
  ):
    """Looks at what is there; changes nothing that a request has made.

    Args:
      folder: an existing one.
      record: what decides the images, of JSON's types.
      count: the number of images that are wanted.
    """
    self.folder = folder
    self._record = json.loads(json.dumps({**record, 'count': count}))
    self.count = count
    old = _read(folder / _REQUEST)
    self.is_finished = old.pop('finished', False) and self._are_all_there()
    for name in stores.names(folder):
      left = whole_files.PRIVATE.fullmatch(name)
      if left and (_PNG.fullmatch(left[1]) or left[1] in _OTHERS):
        stores.remove(folder / name)
    self.differences = _differences(old, self._record)
    self._parts = array_parts.ArrayParts(folder / _PARTS)

  def _are_all_there(self) -> bool:
    pngs = (self._png(number).name for number in range(self.count))
    return stores.sizes(self.folder).keys() >= {*_ARCHIVES, _GRID, *pngs}

  def _png(self, number: int) -> stores.Path:
    return self.folder / f'{number:06d}.png'

  @property
  def done(self) -> int:
    """The number of images of this request that are there, from the first."""
    if self.differences:
      return 0
    return self.count if self.is_finished else self._parts.count

  def start(self, done: int) -> None:
    """Takes the first `done` images as they are; drops those of others."""
    if self.differences:
      if any(map(_PNG.fullmatch, stores.names(self.folder))):
        logging.warning(
          '%s has images of another request (%s): they are replaced.',
          self.folder,
          self.differences,
        )
      clear(self.folder)
      self._parts = array_parts.ArrayParts(self.folder / _PARTS)
    self.is_finished = False
    self.differences = ''
    self._parts.truncate(done)
    self._note(False)

  def _note(self, is_finished: bool) -> None:
    record = {**self._record, 'finished': is_finished}
    text = json.dumps(record, indent=2, sort_keys=True)
    whole_files.save_text(self.folder / _REQUEST, text)

  def add(self, batch: Batch) -> None:
    """Writes the next images, which count when this returns.

    Raises:
      UserError: there is no room for all that are left to be made, or they
        cannot be written.
    """
    images, rows, scales = batch
    arrays = {'arr_0': images, **rows}
    latents = {f'latent_{s}': z for s, z in enumerate(scales)}
    part = _named('samples/', arrays) | _named('latents/', latents)
    size = sum(x.nbytes for x in part.values()) // len(images)
    left = self.count - self._parts.count
    # In the end the archives are written while the parts are there.
    need = (left + self.count) * size
    errors.check_room(f'{left} samples in {self.folder}', need, self.folder)
    first = self._parts.count
    paths = [self._png(number) for number in range(first, first + len(images))]
    whole_files.save_pngs(paths, list(images))
    self._parts.add(part)

  def finish(self, draw: Draw) -> None:
    """Writes the archives and the grid of all images.

    `draw` makes a grid of some images and their conditions.
    """
    if self.is_finished:
      self._parts.remove()  # of a process that was killed as it did so
      return
    self._restore_images()
    rows = self._parts.read(0, min(_GRID_COUNT, self.count))
    arrays = {
      name.removeprefix('samples/'): x
      for name, x in rows.items()
      if name.startswith('samples/')
    }
    grid = draw(arrays.pop('arr_0'), arrays)
    whole_files.save_png(self.folder / _GRID, grid)
    for name, prefix in _ARCHIVES.items():
      self._parts.write_npz(self.folder / name, prefix)
    self._note(True)
    self._parts.remove()

  def _restore_images(self) -> None:
    """Writes images whose files were lost since they were made."""
    there = stores.sizes(self.folder)
    for number in range(self.count):
      path = self._png(number)
      if not there.get(path.name):
        rows = self._parts.read(number, number + 1)
        whole_files.save_png(path, rows['samples/arr_0'][0])


def common(files: Sequence[SampleFiles]) -> int:
  """Returns the number of images that all models of a cascade have."""
  done = min(file.done for file in files)
  # The rows of a finished folder are not in parts any more.
  is_partial = any(file.is_finished for file in files) and any(
    file.done < file.count for file in files
  )
  return 0 if is_partial else done


def start(files: Sequence[SampleFiles], done: int) -> None:
  """Takes the first `done` images as they are; drops those of others."""
  if len(files) == 1 and files[0].differences:
    clear(files[0].folder / SMALL)
  for file in files:
    file.start(done)


def _named(prefix: str, arrays: Mapping[str, np.ndarray]) -> Rows:
  return {f'{prefix}{name}': x for name, x in arrays.items()}


def clear(folder: stores.Path) -> None:
  """Removes all files of samples in a folder, `request.json` last."""
  if not folder.is_dir():
    return
  for name in stores.names(folder):
    if _PNG.fullmatch(name):
      stores.remove(folder / name)
  array_parts.ArrayParts(folder / _PARTS).remove()
  for name in _OTHERS:
    stores.remove(folder / name)


def _read(path: stores.Path) -> dict[str, Any]:
  """Returns a record, {} for none or a damaged one."""
  try:
    record = retries.repeat(lambda: json_text.read(path), path)
  except (FileNotFoundError, ValueError):
    return {}
  return record if isinstance(record, dict) else {}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
  """Says in which fields a request differs from another, '' for none."""
  before, after = dict(_flat(old)), dict(_flat(new))
  lines = [
    f'{name}: {_short(before.get(name))} -> {_short(after.get(name))}'
    for name in sorted(before.keys() | after.keys())
    if before.get(name) != after.get(name)
  ]
  more = [f'{len(lines) - _NAMED} more'] if len(lines) > _NAMED else []
  return ', '.join(lines[:_NAMED] + more) if old else 'none is recorded'


def _flat(value: Mapping[str, Any], prefix: str = '') -> Iterator[Any]:
  for name, item in value.items():
    if isinstance(item, dict) and item:
      yield from _flat(item, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', item


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


@contextlib.contextmanager
def locked(
  folders: Sequence[stores.Path], takeover: bool
) -> Iterator[lock.Held]:
  """Makes folders of samples, the first in a workdir; holds its lock.

  Folders that stay empty are removed. Of several processes the first one does
  it, and all enter the context.

  Raises:
    UserError: another process samples into it, or it cannot be written.
  """

  def make() -> None:
    workdir = folders[0].parent
    if not workdir.is_dir():
      raise errors.UserError(f'{workdir}: not there.', errors.MISSING)
    for folder in folders:
      whole_files.make_folder(folder)

  try:
    processes.decided(make)
    with lock.shared(folders[0], takeover) as held:
      yield held
  finally:
    if processes.is_main_process():
      for folder in (folders[0] / SMALL, folders[0]):
        whole_files.remove_empty(folder)
