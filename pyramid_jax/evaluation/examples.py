"""Examples of a split on the mesh, and on the host with images in uint8."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data import images as data_images
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.pipeline import rows as rows_lib


Batch = Mapping[str, jax.Array]


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
    batch = rows_lib.shuffled_condition(config, reader.finish(batch))
    real = data_images.to_uint8(batch['image'])
    return batch, rows_lib.condition_images(task, batch), real

  def examples(host: Mapping[str, np.ndarray]) -> Examples:
    batch, shown, real = finish(mesh_lib.spread(mesh, host))
    rows = {**host, **{name: np.asarray(x) for name, x in shown.items()}}
    return Examples(batch=batch, rows=rows, real=np.asarray(real))

  return examples
