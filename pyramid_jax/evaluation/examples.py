"""Examples of a split on the mesh, and on the host with images in uint8."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import placement
from pyramid_jax.data.pixels import images as data_images
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import shares
from pyramid_jax.pipeline import rows as rows_lib


Batch = Mapping[str, jax.Array]
Read = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
  """A batch of B examples, of which R are on the host."""

  # (B, ...) and more rows that fill it up, finished, on the mesh.
  batch: Batch
  rows: dict[str, np.ndarray]  # (R, ...), images of conditions in uint8
  real: np.ndarray  # (R, H, W, 3) uint8, whose conditions they are


class Finisher:
  """Makes examples of a reader's host batches of one size; compiled once.

  Each process reads the rows of its devices.
  """

  def __init__(self, config: ConfigDict, reader: Any, mesh: Mesh, size: int):
    """Takes batches of `size` examples."""
    self.share = shares.of_batch(mesh, size)
    self._mesh = mesh
    task = config.condition.task

    def finish(batch: Batch) -> tuple[Batch, Batch, jax.Array]:
      finished = reader.finish(batch)
      batch = rows_lib.shuffled_condition(config, finished, size)
      real = data_images.to_uint8(batch['image'])
      return batch, rows_lib.condition_images(task, batch), real

    self._finish = jax.jit(
      placement.within(mesh, finish),
      out_shardings=mesh_lib.batch_sharding(mesh),
    )

  def own(self, read: Read) -> Examples:
    """Returns the examples that this process counts on the host.

    All processes call it. `read` is called with (R,) rows of the batch, and
    returns host arrays, (R, ...) each.
    """
    share = self.share
    host = read(share.rows)
    batch, shown, real = self._finished(host)
    own = {name: x[share.is_own] for name, x in host.items()}
    own |= {name: x[share.own] for name, x in shown.items()}
    return Examples(batch=batch, rows=own, real=real[share.own])

  def all(self, read: Read) -> Examples:
    """Returns all examples on the host; see `own`."""
    host = read(self.share.rows)
    batch, shown, real = self._finished(host)
    size = self.share.size
    rows = shares.gathered(self._mesh, self.share, host)
    rows |= {name: x[:size] for name, x in shown.items()}
    return Examples(batch=batch, rows=rows, real=real[:size])

  def _finished(
    self, host: Mapping[str, np.ndarray]
  ) -> tuple[Batch, dict[str, np.ndarray], np.ndarray]:
    batch, *shown = self._finish(self.share.place(self._mesh, host))
    images, real = processes.to_host(shown)
    return batch, images, real
