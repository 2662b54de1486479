"""Images to be scored, from wherever they are, in batches."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import pathlib
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import placement
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import prefetching
from pyramid_jax.data.caches import stored_arrays
from pyramid_jax.data.pixels import images as data_images
from pyramid_jax.data.storage import image_files
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import shares
from pyramid_jax.files import arrays
from pyramid_jax.files import remote_path
from pyramid_jax.files import stores
from pyramid_jax.runs import progress


SAMPLES = 'samples.npz'  # The images of --mode=sample.
_SEED = 17  # The seed of the order of a split, where it is shuffled.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
  """The first images of a source."""

  name: str  # The name of the source, for messages.
  source: batches_lib.Source  # The source of host batches.
  count: int  # The number of images, at most as many as the source has.
  # Host batch -> (B, H, W, 3) uint8.
  finish: Callable[[Mapping[str, Any]], np.ndarray] = lambda b: b['image']
  shuffle: bool = False  # whether they are drawn from all over the source
  threads: int = 1  # that read

  def batches(
    self, size: int, first: int = 0, rows: np.ndarray | None = None
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields places (B,) and images (B, H, W, 3) uint8, each once.

    There are `size` images at a time, in the last batch perhaps fewer; the
    `first` batches are left out, and of the others all but some `rows`.
    """
    size = min(size, self.count)
    steps = -(-self.count // size)
    rows = np.arange(size) if rows is None else rows[rows < size]
    if not rows.size:
      nothing = np.zeros((0, 1, 1, 3), np.uint8)
      yield from [(rows, nothing)] * (steps - first)
      return
    order = batches_lib.Batches(self.source, size, _SEED, self.shuffle, rows)
    with prefetching.prefetch(
      order, first, steps, lambda batch: batch, threads=self.threads
    ) as ready:
      for step in range(first, steps):
        places = step * size + rows
        places = places[places < self.count]
        yield places, self.finish(next(ready))[: len(places)]


def shared(
  images: Images, size: int, devices: Mesh
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields places and images of those that this process counts.

  Batches of `size` images are shared by the processes of the devices.
  """
  own = shares.of_batch(devices, size).own
  count = range(-(-images.count // size))
  with progress.Progress(count, size, 'batch') as steps:
    for _, batch in zip(steps, images.batches(size, rows=own), strict=True):
      yield batch


class _Rows:
  """Images in memory or on disk as a source."""

  def __init__(self, images: np.ndarray | stored_arrays.StoredArray):
    self._images = images

  def __len__(self) -> int:
    return len(self._images)

  def batch(
    self, indices: np.ndarray, draws: np.ndarray
  ) -> dict[str, np.ndarray]:
    del draws
    return {'image': self._images[indices]}


def of_array(
  images: np.ndarray | stored_arrays.StoredArray, name: str
) -> Images:
  """Takes (N, H, W, 3) uint8 images; other arrays are a ValueError."""
  blank = np.zeros((), images.dtype)
  if not len(data_images.check_batch(np.broadcast_to(blank, images.shape))):
    raise ValueError(f'{name} has no images.')
  return Images(name=name, source=_Rows(images), count=len(images))


def of_folder(path: pathlib.Path, threads: int) -> Images:
  """Takes the image files below a folder; without any it is a UserError."""
  files = image_files.ImageFiles(path)
  return Images(name=str(path), source=files, count=len(files), threads=threads)


def of_saved(
  path: pathlib.Path, threads: int
) -> tuple[Images, dict[str, stored_arrays.StoredArray]]:
  """Takes the images that --samples names, and the other arrays of an .npz.

  The path is an .npz with `arr_0`, a folder with a `samples.npz`, which is read
  instead of the images, or a folder of image files, which `threads` read.

  Raises:
    UserError: a path that is not there, or of another kind.
  """
  if not path.exists():
    raise errors.UserError(f'--samples={path}: not there.', errors.MISSING)
  file = saved_file(path)
  if file is None:
    return of_folder(path, threads), {}
  try:
    found = stored_arrays.read(file)
  except ValueError as error:
    raise errors.UserError(f'--samples={error}.', errors.DATA) from error
  if 'arr_0' not in found:
    raise errors.UserError(
      f'--samples={file}: has no array arr_0, only {sorted(found)}.',
      errors.DATA,
    )
  with errors.user_errors(value=errors.DATA):
    return of_array(found.pop('arr_0'), str(file)), found


def saved_file(path: pathlib.Path) -> pathlib.Path | None:
  """Returns the .npz that --samples names, None for a folder of images."""
  if not path.is_dir():
    return path
  file = path / SAMPLES
  return file if file.is_file() else None


def fingerprint(path: pathlib.Path) -> Any:
  """Returns values of JSON's types that change with what --samples names.

  They are sizes and checksums of an .npz, sizes and times of files of images.
  """
  file = saved_file(path)
  if file is not None:
    return arrays.contents(file)
  names = image_files.ImageFiles(path).names
  if stores.is_remote(path):
    there = remote_path.tree(remote_path.RemotePath(path))
    return [(x, there[x].length, there[x].version) for x in names]
  stats = [(x, (path / x).stat()) for x in names]
  return [(x, stat.st_size, stat.st_mtime_ns) for x, stat in stats]


def of_split(
  config: ConfigDict,
  split: str,
  mesh: Mesh,
  count: int | None = None,
  shuffle: bool = False,
  every: bool = False,
) -> Images:
  """Takes `count` real images of a split, cropped as for evaluation.

  They are `config.evaluate.count` by default, and all images with `every` or of
  a split that has fewer. `Reader.finish` runs on the mesh, one of this process
  alone.

  Raises:
    UserError: data that are not there or cannot be read.
  """
  still = ConfigDict(data.uncached(config).to_dict())
  still.data.crop, still.data.flip = config.data.eval_crop, False
  with errors.user_errors():
    reader = data.create(still, split)
  count = config.evaluate.count if count is None else count
  if every:
    count = len(reader)
  if count > len(reader):
    logging.warning(
      '%d real images of %s are wanted, all %d that it has are taken',
      *(count, split, len(reader)),
    )
    count = len(reader)

  @jax.jit
  @functools.partial(placement.within, mesh)
  def finish(batch: Mapping[str, jax.Array]) -> jax.Array:
    return data_images.to_uint8(reader.finish(batch)['image'])

  def images(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    size = len(next(iter(batch.values())))  # rows behind them fill it up
    return processes.to_host(finish(mesh_lib.spread(mesh, batch)))[:size]

  return Images(
    name=f'the real images of {split}',
    source=reader,
    count=count,
    finish=images,
    shuffle=shuffle,
    threads=config.data.workers,
  )
