"""Images to be scored, from wherever they are, in batches."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any
import zipfile

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import image_files
from pyramid_jax.data import images as data_images
from pyramid_jax.distributed import mesh as mesh_lib
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

  def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields places (B,) and images (B, H, W, 3) uint8, each once.

    There are `size` images at a time, in the last batch perhaps fewer.
    """
    size = min(size, self.count)
    steps = -(-self.count // size)
    order = batches_lib.Batches(self.source, size, _SEED, self.shuffle)
    with batches_lib.prefetch(
      order, 0, steps, lambda batch: batch, threads=self.threads
    ) as ready:
      for step in progress.Progress(range(steps), size, 'batch'):
        places = np.arange(step * size, min((step + 1) * size, self.count))
        yield places, self.finish(next(ready))[: len(places)]


class _Rows:
  """Images in memory as a source."""

  def __init__(self, images: np.ndarray):
    self._images = images

  def __len__(self) -> int:
    return len(self._images)

  def batch(
    self, indices: np.ndarray, draws: np.ndarray
  ) -> dict[str, np.ndarray]:
    del draws
    return {'image': self._images[indices]}


def of_array(images: np.ndarray, name: str) -> Images:
  """Takes (N, H, W, 3) uint8 images; other arrays are a ValueError."""
  if not len(data_images.check_batch(images)):
    raise ValueError(f'{name} has no images.')
  return Images(name=name, source=_Rows(images), count=len(images))


def of_folder(path: pathlib.Path, threads: int) -> Images:
  """Takes the image files below a folder; without any it is a UserError."""
  files = image_files.ImageFiles(path)
  return Images(name=str(path), source=files, count=len(files), threads=threads)


def of_saved(
  path: pathlib.Path, threads: int
) -> tuple[Images, dict[str, np.ndarray]]:
  """Takes the images that --samples names, and the other arrays of an .npz.

  The path is an .npz with `arr_0`, a folder with a `samples.npz`, which is read
  instead of the images, or a folder of image files, which `threads` read.

  Raises:
    UserError: a path that is not there, or of another kind.
  """
  if not path.exists():
    raise errors.UserError(f'--samples={path}: not there.', errors.MISSING)
  if path.is_dir():
    if not (path / SAMPLES).is_file():
      return of_folder(path, threads), {}
    path = path / SAMPLES
  if not zipfile.is_zipfile(path):
    raise errors.UserError(
      f'--samples={path}: is neither a folder nor an .npz.', errors.DATA
    )
  with (
    errors.user_errors(value=errors.DATA),
    np.load(path, allow_pickle=False) as file,
  ):
    arrays = dict(file)
  if 'arr_0' not in arrays:
    raise errors.UserError(
      f'--samples={path}: has no array arr_0, only {sorted(arrays)}.',
      errors.DATA,
    )
  with errors.user_errors(value=errors.DATA):
    return of_array(arrays['arr_0'], str(path)), arrays


def of_split(
  config: ConfigDict,
  split: str,
  mesh: Mesh,
  count: int | None = None,
  shuffle: bool = False,
) -> Images:
  """Takes `count` real images of a split, cropped as for evaluation.

  They are `config.evaluate.count` by default; `Reader.finish` runs on the mesh.

  Raises:
    UserError: data that are not there or cannot be read, or too few of them.
  """
  still = ConfigDict(data.uncached(config).to_dict())
  still.data.crop, still.data.flip = config.data.eval_crop, False
  with errors.user_errors():
    reader = data.create(still, split)
  count = config.evaluate.count if count is None else min(count, len(reader))
  check_count(count, len(reader))

  @jax.jit
  def finish(batch: Mapping[str, jax.Array]) -> jax.Array:
    return data_images.to_uint8(reader.finish(batch)['image'])

  return Images(
    name=f'the real images of {split}',
    source=reader,
    count=count,
    finish=lambda batch: np.asarray(finish(mesh_lib.spread(mesh, batch))),
    shuffle=shuffle,
    threads=config.data.workers,
  )


def check_count(count: int, there: int) -> None:
  """Raises a UserError if a split has fewer images than are wanted."""
  if count > there:
    raise errors.UserError(
      f'config.evaluate.count is {count}, the split has {there} images.'
    )
