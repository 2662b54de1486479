"""Examples of a split on the host, as a person sees them.

`Reader.finish` makes the images among the conditions on the device; scores,
grids and files want them in uint8, and the sampler takes them back.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import images as data_images
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import shuffled


Batch = Mapping[str, jax.Array]

# By task. `image` is the whole image of what is to be restored.
IMAGES = {
  'map': ('mask',),
  'superres': ('lr_image', 'image'),
  'inpaint': ('inpaint_mask', 'image'),
}
BESIDE = ('mask', 'inpaint_mask', 'lr_image')  # of any task, if asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
  """A batch of examples.

  Attributes:
    batch: finished, on the mesh.
    rows: on the host, with the images of the conditions in uint8.
    real: (B, H, W, 3) uint8, the images that the conditions belong to.
  """

  batch: Batch
  rows: dict[str, np.ndarray]
  real: np.ndarray


def finisher(
  config: ConfigDict, reader: Any, mesh: Mesh
) -> Callable[[Mapping[str, np.ndarray]], Examples]:
  """Returns what makes examples of a reader's host batches; compiled once.

  Args:
    config: of the run.
    reader: of a split.
    mesh: where the batches go.
  """
  task = config.condition.task

  @jax.jit
  def finish(batch: Batch) -> tuple[Batch, Batch, jax.Array]:
    batch = shuffled.condition(config, reader.finish(batch))
    real = data_images.to_uint8(batch['image'])
    return batch, condition_images(task, batch), real

  def examples(host: Mapping[str, np.ndarray]) -> Examples:
    batch, shown, real = finish(mesh_lib.spread(mesh, host))
    rows = {**host, **{name: np.asarray(x) for name, x in shown.items()}}
    return Examples(batch=batch, rows=rows, real=np.asarray(real))

  return examples


def condition_images(task: str, finished: Batch) -> dict[str, jax.Array]:
  """Picks the images among the conditions of a finished batch.

  Args:
    task: of the condition.
    finished: a batch of `Reader.finish`.

  Returns:
    Images and edges as uint8, maps of numbers as they are: those of the task
    and those that any task may have beside its condition.
  """
  wanted = [*IMAGES.get(task, ()), *BESIDE]
  if 'inpaint_mask' in finished:
    wanted.append('image')
  found = {name: finished[name] for name in wanted if name in finished}
  if 'edges' in finished:
    found['edges'] = 2 * finished['edges'] - 1
  return {
    name: data_images.to_uint8(x) if x.dtype.kind == 'f' else x
    for name, x in found.items()
  }


def of_split(
  config: ConfigDict, split: str, count: int
) -> dict[str, np.ndarray]:
  """Returns the first `count` examples of a split, images in uint8.

  Raises:
    ValueError: data that cannot be read.
    FileNotFoundError: data that are not there.
  """
  reader = data.create(config, split)
  batch = batches_lib.Batches(reader, count, seed=0, shuffle=False).at(0)
  task, also = config.condition.task, config.condition.also
  if task not in IMAGES and also != 'superres' and not config.data.maps:
    return batch
  draw = jax.jit(lambda b: condition_images(task, reader.finish(b)))
  shown = draw(mesh_lib.numeric(batch))
  return {**batch, **{name: np.asarray(x) for name, x in shown.items()}}


def composite(
  images: np.ndarray,
  examples: Mapping[str, np.ndarray],
  project: bool = False,
) -> np.ndarray:
  """Puts what is known of images back in its place.

  Args:
    images: (B, H, W, 3) uint8 samples.
    examples: perhaps with `inpaint_mask` (B, H, W), 1 = hole, and `image`
      uint8; or with `lr_image` (B, h, w, 3) uint8.
    project: whether enlarged images are changed such that their cells have
      the means that were given: x + up(y - down(x)).
  """
  if 'inpaint_mask' in examples:
    hole = examples['inpaint_mask'][..., None] > 0
    return np.where(hole, images, examples['image'])
  if not project or 'lr_image' not in examples:
    return images
  small, x = examples['lr_image'].astype(float), images.astype(float)
  b, height, width, c = small.shape
  factor = x.shape[1] // height
  for _ in range(4):  # what is cut off at black and white is put elsewhere
    cells = x.reshape(b, height, factor, width, factor, c)
    missing = small - cells.mean((2, 4))
    x = np.clip(x + missing.repeat(factor, 1).repeat(factor, 2), 0, 255)
  return np.round(x).astype(np.uint8)
