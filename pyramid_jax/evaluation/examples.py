"""Examples of a split on the host, with their images in uint8.

`Reader.finish` makes the images among the conditions on the device; scores,
grids and files want them in uint8, and the sampler takes them back.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax.conditioning import low_resolution
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import images as data_images
from pyramid_jax.distributed import mesh as mesh_lib


Batch = Mapping[str, jax.Array]

# By task. `image` is the whole image that is to be restored.
IMAGES = {
  'map': ('mask',),
  'superres': ('lr_image', 'image'),
  'inpaint': ('inpaint_mask', 'image'),
}
OF_ANY = ('mask', 'inpaint_mask', 'lr_image')  # which every task may have


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
  """A batch of examples."""

  batch: Batch  # finished, on the mesh
  rows: dict[str, np.ndarray]  # on the host, images of conditions in uint8
  real: np.ndarray  # (B, H, W, 3) uint8, whose conditions they are


def finisher(
  config: ConfigDict, reader: Any, mesh: Mesh
) -> Callable[[Mapping[str, np.ndarray]], Examples]:
  """Returns what makes examples of a reader's host batches; compiled once."""
  task = config.condition.task

  @jax.jit
  def finish(batch: Batch) -> tuple[Batch, Batch, jax.Array]:
    batch = shuffled_condition(config, reader.finish(batch))
    real = data_images.to_uint8(batch['image'])
    return batch, condition_images(task, batch), real

  def examples(host: Mapping[str, np.ndarray]) -> Examples:
    batch, shown, real = finish(mesh_lib.spread(mesh, host))
    rows = {**host, **{name: np.asarray(x) for name, x in shown.items()}}
    return Examples(batch=batch, rows=rows, real=np.asarray(real))

  return examples


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
  config: ConfigDict, batch: Mapping[str, Any]
) -> dict[str, Any]:
  """Gives every example the edges of its neighbour if the config says so.

  The batch may be on the host or on a device.
  """
  batch = dict(batch)
  if 'edges' in batch and config.sketch.shuffled_condition:
    edges = batch['edges']
    roll = np.roll if isinstance(edges, np.ndarray) else jnp.roll
    batch['edges'] = roll(edges, 1, axis=0)
  return batch


def of_split(
  config: ConfigDict, split: str, count: int
) -> dict[str, np.ndarray]:
  """Returns the first `count` examples of a split, images in uint8.

  Data that cannot be read are a ValueError, missing data a FileNotFoundError.
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
