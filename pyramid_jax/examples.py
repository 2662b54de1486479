"""Examples on the host, with the pictures among their conditions.

`Reader.finish` draws these on the device; scores, grids and files want them as
a person sees them, in uint8, and the sampler takes them back.
"""

from collections.abc import Mapping

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import grids
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.scaling import mesh as mesh_lib


# By task. `image` is the whole picture of what is to be restored.
PICTURES = {
  'map': ('mask',),
  'superres': ('lr_image', 'image'),
  'inpaint': ('inpaint_mask', 'image'),
}


def pictures(
  task: str, finished: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Picks the pictures of a task's condition from a finished batch."""
  return {name: finished[name] for name in PICTURES.get(task, ())}


def seen(
  batch: Mapping[str, np.ndarray], drawn: Mapping[str, jax.Array]
) -> dict[str, np.ndarray]:
  """Adds `pictures` to a host batch; those in [-1, 1] become uint8."""
  arrays = {name: np.asarray(x) for name, x in drawn.items()}
  for name, x in arrays.items():
    if x.dtype.kind == 'f':
      arrays[name] = grids.to_uint8(x)
  return {**batch, **arrays}


def of_split(
  config: ConfigDict, split: str, count: int
) -> dict[str, np.ndarray]:
  """Returns the first `count` examples of a split, see `seen`.

  Raises:
    ValueError: data that cannot be read.
    FileNotFoundError: data that are not there.
  """
  reader = data.create(config, split)
  batch = batches_lib.Batches(reader, count, seed=0, shuffle=False).at(0)
  task = config.condition.task
  if task not in PICTURES:
    return batch
  draw = jax.jit(lambda b: pictures(task, reader.finish(b)))
  return seen(batch, draw(mesh_lib.numeric(batch)))


def composite(
  images: np.ndarray, examples: Mapping[str, np.ndarray]
) -> np.ndarray:
  """Puts what is known of pictures back in its place, if there are holes.

  Args:
    images: (B, H, W, 3) uint8 samples.
    examples: with `inpaint_mask` (B, H, W), 1 = hole, and `image` uint8.
  """
  if 'inpaint_mask' not in examples:
    return images
  hole = examples['inpaint_mask'][..., None] > 0
  return np.where(hole, images, examples['image'])
