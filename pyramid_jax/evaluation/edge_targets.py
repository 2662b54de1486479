"""Whether the targets of an edge predictor keep the edges."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.metrics import edges as edges_lib
from pyramid_jax.systems import system as system_lib


# Below it the first stage of a base does not keep lines.
LOWEST_F1 = 0.8
_CHECKED = 32  # edge maps that are measured


def check(
  system: Any, reader: reader_lib.Reader, frozen: Mapping[str, Any]
) -> None:
  """Refuses to predict latents of edges that do not come back as edges.

  Args:
    system: that is trained; one that predicts no edges passes.
    reader: of the validation split.
    frozen: {part: tree}, the frozen weights of the system.

  Raises:
    UserError: the first stage of the base cannot draw lines.
  """
  if system.outputs != system_lib.PREDICTIONS:
    return
  host = batches_lib.Batches(reader, _CHECKED, seed=0, shuffle=False)
  arrays: Any = mesh_lib.numeric(host.at(0))
  batch = reader.finish(arrays)
  with errors.user_errors():
    wanted = system.target_edges(frozen, batch)

  @jax.jit
  def there_and_back(frozen, edges):
    weights = system.base_weights(frozen)
    targets = system.targets.of_edges(weights, edges)
    return system.targets.to_edges(weights, targets)

  found = there_and_back(frozen, wanted)
  f1 = edges_lib.compare(np.asarray(found) > 0, np.asarray(wanted) > 0)['f1']
  if f1.mean() < LOWEST_F1:
    raise errors.UserError(
      f'the first stage of config.sketch.base = {system.base_path} gives edge'
      f' maps back with an F1 of {f1.mean():.2f}, at least {LOWEST_F1} is'
      " needed; take config.sketch.target_space = 'pixels'."
    )
