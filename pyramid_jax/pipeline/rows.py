"""Where the rows of conditions come from: a person, chance, or a split.

A source is a function of the numbers of the images, so that image i has the
same row whatever the size of its batch. Images among the conditions are uint8:
`Reader.finish` makes them on the device, and files, grids and scores want them
on the host.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Protocol

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.conditioning import hashing
from pyramid_jax.conditioning import low_resolution
from pyramid_jax.conditioning import request as request_lib
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.pixels import images as data_images
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.pipeline import conditions


Rows = dict[str, np.ndarray]
Batch = Mapping[str, jax.Array]

# By task. `image` is the whole image that is to be restored.
IMAGES = {
  'map': ('mask',),
  'superres': ('lr_image', 'image'),
  'inpaint': ('inpaint_mask', 'image'),
}
OF_ANY = ('mask', 'inpaint_mask', 'lr_image')  # which every task may have
# Rows of conditions that have the size of the images.
SIZED = ('image', 'inpaint_mask', 'mask', 'sketch', 'edges', 'lr_image')

_CLASSES = 200  # word of the hash that draws classes


class Source(Protocol):
  """The conditions of all images of a request."""

  def __call__(self, numbers: np.ndarray) -> Rows:
    """Returns (B, ...) host arrays of the images with (B,) numbers."""


@dataclasses.dataclass(frozen=True)
class Given:
  """Rows that serve in turn."""

  rows: Mapping[str, np.ndarray]  # (N, ...) each, or nothing

  def __call__(self, numbers: np.ndarray) -> Rows:
    return {name: x[numbers % len(x)] for name, x in self.rows.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnClasses:
  """A class for each image, uniformly at random.

  So are samples of ADM (openai/guided-diffusion: scripts/image_sample.py), DiT
  (facebookresearch/DiT: sample_ddp.py) and DiffiT drawn for their scores.
  """

  count: int  # the number of classes; they are numbered from 1
  seed: int
  rest: Mapping[str, int]  # rows that are the same for all images

  def __call__(self, numbers: np.ndarray) -> Rows:
    ids = 1 + hashing.below(self.count, self.seed, _CLASSES, numbers)
    rest = {k: np.full(len(ids), v, np.int32) for k, v in self.rest.items()}
    return {'class': ids.astype(np.int32), **rest}


class Split:
  """The examples of a split, in the reader's order; they serve in turn."""

  def __init__(
    self, config: ConfigDict, split: str, count: int, names: Sequence[str]
  ):
    """Opens the split, whose labels must have the names of the run's.

    Raises:
      ValueError: data that cannot be read.
      FileNotFoundError: data that are not there.
    """
    self._config, self._count = config, count
    self._reader = data.create(config, split)
    reader_lib.check_labels(config, names, self._reader.label_names)
    self._order = batches_lib.Batches(self._reader, 1, seed=0, shuffle=False)
    task, maps = config.condition.task, config.data.maps
    has_images = task in IMAGES or config.condition.also == 'superres' or maps
    finish = lambda b: condition_images(task, self._reader.finish(b))
    self._images = jax.jit(finish) if has_images else None

  def __call__(self, numbers: np.ndarray) -> Rows:
    rows = self._read(numbers)
    if self._config.sketch.shuffled_condition and 'edges' in rows:
      rows['edges'] = self._read((numbers - 1) % self._count)['edges']
    return rows

  def _read(self, numbers: np.ndarray) -> Rows:
    order = [self._order.order(int(number)) for number in numbers]
    indices, draws = (np.concatenate(x) for x in zip(*order, strict=True))
    rows = self._reader.batch(indices, draws)
    if self._images is None:
      return rows
    shown = self._images(mesh_lib.numeric(rows))
    return {**rows, **processes.to_host(shown)}


def without_request(
  config: ConfigDict, names: Sequence[str], seed: int, count: int
) -> Source:
  """Returns the conditions of a request that gives none.

  Nothing where the model has no condition, classes at random where it has only
  those, otherwise the test split.

  Args:
    config: the config of the run.
    names: the label names of its data.
    seed: the seed of classes.
    count: the number of images.

  Raises:
    UserError: a condition is needed, and the data are not there.
  """
  c, maps = config.condition, config.data.maps
  is_shapes = config.data.name == 'shapes'
  if c.task == 'class' and c.also in ('', 'camera') and not maps:
    rest = dict.fromkeys(conditions.optional(config), 0)  # not known
    classes = request_lib.class_count(config, names)
    return DrawnClasses(count=classes, seed=seed, rest=rest)
  if c.task == 'none' and not maps and not is_shapes:
    return Given({})
  if not is_shapes:
    _check_data(config)
  return of_split(config, 'test', count, names)


def _check_data(config: ConfigDict) -> None:
  """Refuses what needs data that are not there; names what to give."""
  try:
    missing = data.missing_inputs(config, ('test',))
  except (ValueError, OSError) as error:
    missing = [str(error)]
  if not missing:
    return
  needed = conditions.inputs(config) or ('sketch',)
  raise errors.UserError(
    f'give {" and ".join(needed)}: the task {config.condition.task!r} needs a'
    f' condition, and the test split is not there ({missing[0]}).',
    errors.MISSING,
  )


def of_split(
  config: ConfigDict, split: str, count: int, names: Sequence[str] = ()
) -> Split:
  """Returns the examples of a split for a run with these label names.

  Data that are bad, missing or have other labels are a UserError.
  """
  with errors.user_errors():
    return Split(config, split, count, names)


def condition_images(task: str, finished: Batch) -> dict[str, jax.Array]:
  """Returns the images among the conditions of a batch of `Reader.finish`.

  Images and edges become uint8, maps of numbers stay as they are.
  """
  wanted = [*IMAGES.get(task, ()), *OF_ANY]
  if 'inpaint_mask' in finished:
    wanted.append('image')
  found = {name: finished[name] for name in wanted if name in finished}
  if 'edges' in finished:
    found['edges'] = 2 * finished['edges'] - 1
  return {
    name: data_images.to_uint8(x) if x.dtype.kind == 'f' else x
    for name, x in found.items()
  }


def shuffled_condition(
  config: ConfigDict, batch: Mapping[str, Any], size: int
) -> dict[str, Any]:
  """Gives every example of a batch on a mesh the edges of its neighbour.

  It does so if the config says so. Rows behind the first `size` repeat these
  in turn.
  """
  batch = dict(batch)
  if 'edges' in batch and config.sketch.shuffled_condition:
    edges = batch['edges']
    batch['edges'] = edges[(np.arange(len(edges)) - 1) % size]
  return batch


def composite(
  images: np.ndarray, examples: Mapping[str, np.ndarray], project: bool = False
) -> np.ndarray:
  """Puts the known parts of images back in their places.

  Args:
    images: (B, H, W, 3) uint8 samples.
    examples: `image` is put back where `inpaint_mask` (B, H, W) is 0;
      `lr_image` (B, h, w, 3) uint8 is used by `project`.
    project: whether the means of the cells of enlarged images become the given
      pixels.
  """
  if 'inpaint_mask' in examples:
    hole = examples['inpaint_mask'][..., None] > 0
    return np.where(hole, images, examples['image'])
  if not project or 'lr_image' not in examples:
    return images
  small, x = examples['lr_image'].astype(float), images.astype(float)
  for _ in range(4):  # what is clipped at black and white goes elsewhere
    x = np.clip(low_resolution.with_cell_means(x, small), 0, 255)
  return np.round(x).astype(np.uint8)
