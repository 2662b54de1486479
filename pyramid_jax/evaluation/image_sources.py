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


SAMPLES = 'samples.npz'  # what --mode=sample writes beside the images
_SEED = 17  # of the order of a split, where it is shuffled


def _as_they_are(batch: Mapping[str, Any]) -> np.ndarray:
  return batch['image']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
  """The first images of a source.

  Attributes:
    name: of the source, for people.
    source: of host batches.
    count: how many, at most as many as the source has.
    finish: host batch -> (B, H, W, 3) uint8.
    shuffle: whether they are drawn from all over the source.
    threads: that read.
  """

  name: str
  source: batches_lib.Source
  count: int
  finish: Callable[[Mapping[str, Any]], np.ndarray] = _as_they_are
  shuffle: bool = False
  threads: int = 1

  def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields places (B,) and images (B, H, W, 3) uint8, each once.

    Args:
      size: images at a time; of the last batch there may be fewer.
    """
    size = min(size, self.count)
    steps = -(-self.count // size)
    order = batches_lib.Batches(self.source, size, _SEED, self.shuffle)
    bar = progress.Progress(0, steps, size, unit='batch')
    with batches_lib.prefetch(
      order, 0, steps, lambda batch: batch, threads=self.threads
    ) as ready:
      for step, batch in enumerate(ready):
        places = np.arange(step * size, min((step + 1) * size, self.count))
        yield places, self.finish(batch)[: len(places)]
        bar.update(step + 1)


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
  """Takes (N, H, W, 3) uint8 images.

  Raises:
    ValueError: another shape or type, or no images.
  """
  if not len(data_images.check_batch(images)):
    raise ValueError(f'{name} has no images.')
  return Images(name=name, source=_Rows(images), count=len(images))


def of_folder(path: pathlib.Path, threads: int) -> Images:
  """Takes the image files below a folder.

  Raises:
    UserError: no images, or the first cannot be read.
  """
  files = image_files.ImageFiles(path)
  return Images(name=str(path), source=files, count=len(files), threads=threads)


def of_saved(
  path: pathlib.Path, threads: int
) -> tuple[Images, dict[str, np.ndarray]]:
  """Takes samples, or what else --samples names.

  Args:
    path: an .npz with `arr_0`, a folder with a `samples.npz`, which counts
      then, or a folder of image files.
    threads: that read files.

  Returns:
    The images and the arrays of the .npz, none of image files.

  Raises:
    UserError: not there, or not what it should be.
  """
  if not path.exists():
    raise errors.UserError(f'--samples={path}: not there.', errors.MISSING)
  if path.is_dir():
    if not (path / SAMPLES).is_file():
      return of_folder(path, threads), {}
    path = path / SAMPLES
  arrays = _read_npz(path)
  if 'arr_0' not in arrays:
    raise errors.UserError(
      f'--samples={path}: has no array arr_0, only {sorted(arrays)}.',
      errors.DATA,
    )
  with errors.user_errors(value=errors.DATA):
    return of_array(arrays['arr_0'], str(path)), arrays


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  if not zipfile.is_zipfile(path):
    raise errors.UserError(
      f'--samples={path}: is neither a folder nor an .npz.', errors.DATA
    )
  with (
    errors.user_errors(value=errors.DATA),
    np.load(path, allow_pickle=False) as file,
  ):
    return {name: file[name] for name in file.files}


def of_split(
  config: ConfigDict,
  split: str,
  mesh: Mesh,
  count: int | None = None,
  shuffle: bool = False,
) -> Images:
  """Takes the real images of a split, cropped as for evaluation.

  Args:
    config: of the run.
    split: train, val or test.
    mesh: where `finish` of the reader runs.
    count: how many of them; None: `config.evaluate.count`.
    shuffle: see `Images`.

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

  def drawn(batch: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(finish(mesh_lib.spread(mesh, batch)))

  return Images(
    name=f'the real images of {split}',
    source=reader,
    count=count,
    finish=drawn,
    shuffle=shuffle,
    threads=config.data.workers,
  )


def check_count(count: int, there: int) -> None:
  """Raises a UserError if a split has fewer images than are wanted."""
  if count > there:
    raise errors.UserError(
      f'config.evaluate.count is {count}, the split has {there} images.'
    )
