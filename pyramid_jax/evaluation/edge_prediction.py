"""Scores of an edge predictor, and a check of its targets."""

from collections.abc import Callable
from collections.abc import Mapping
import functools
from typing import Any
from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax import placement
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import shares
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import edges as edges_lib
from pyramid_jax.metrics import states
from pyramid_jax.runs import stopping
from pyramid_jax.systems import system as system_lib


# Below it the first stage of a base does not keep lines.
LOWEST_F1 = 0.8
_CHECKED = 32  # edge maps that are measured
PARTS = (0.5, 0.7, 0.9)  # of the noise's time, where edges are predicted


def _f1(found: jax.Array, wanted: jax.Array, count: int) -> np.ndarray:
  """Returns the F1 (B,) of the first B = count edge maps (N, H, W)."""
  maps = (x[:count] > 0 for x in processes.to_host((found, wanted)))
  return edges_lib.compare(*maps)['f1']


def check_targets(
  system: Any,
  reader: reader_lib.Reader,
  frozen: Mapping[str, Any],
  mesh: Mesh,
) -> None:
  """Refuses to predict latents of edges that are not decoded to edges.

  Args:
    system: that is trained; one that predicts no edges passes.
    reader: the reader of the validation split.
    frozen: {part: tree}, the pretrained weights of the system.
    mesh: the devices that have them.

  Raises:
    UserError: the first stage of the base cannot draw lines.
  """
  if system.outputs != system_lib.PREDICTIONS:
    return
  host = batches_lib.Batches(reader, _CHECKED, seed=0, shuffle=False)
  arrays = mesh_lib.spread(mesh, host.at(0))
  compiled = lambda function: jax.jit(placement.within(mesh, function))

  @compiled
  def targets(frozen, batch):
    return system.target_edges(frozen, reader.finish(batch))

  @compiled
  def there_and_back(frozen, edges):
    weights = system.base_weights(frozen)
    targets = system.targets.of_edges(weights, edges)
    return system.targets.to_edges(weights, targets)

  with errors.user_errors():
    wanted = targets(frozen, arrays)
  f1 = _f1(there_and_back(frozen, wanted), wanted, _CHECKED).mean()
  if f1 < LOWEST_F1:
    raise errors.UserError(
      f'the first stage of config.sketch.base = {system.base_path} gives edge'
      f' maps back with an F1 of {f1:.2f}, at least {LOWEST_F1} is needed; take'
      " config.sketch.target_space = 'pixels'."
    )


def scorer(
  pipe: pipeline.Pipeline, reader: reader_lib.Reader, count: int
) -> Callable[[pipeline.Pipeline], dict[str, float]]:
  """Returns a function from a predictor to its scores on `count` images.

  The scores are the squared error of the prediction at several noise levels,
  and the F1 of the edges behind it. The weights of `pipe` do not matter.
  """
  share = shares.of_batch(pipe.mesh, count)
  host = batches_lib.Batches(reader, count, seed=0, shuffle=False)
  arrays = share.place(pipe.mesh, host.rows(share.rows))
  system = cast(system_lib.Predicting, pipe.system)

  @jax.jit
  @functools.partial(placement.within, pipe.mesh)
  def predict(weights, batch, part):
    batch = reader.finish(batch)
    parts = jnp.full(batch['image'].shape[:1], part)
    errors, edges = system.predicted(weights, jax.random.key(0), batch, parts)
    return errors, edges, system.target_edges(weights.frozen, batch)

  def scores(pipe: pipeline.Pipeline) -> dict[str, float]:
    values = {}
    for part in PARTS:
      if stopping.point():
        stopping.check()
      error, found, wanted = predict(pipe.weights, arrays, part)
      values[f'error_at_{part}'] = processes.to_host(error)[:count]
      values[f'edge_f1_at_{part}'] = _f1(found, wanted, count)
    one = np.ones(count)
    pairs = {name: bootstrap.pairs(x, one) for name, x in values.items()}
    kept = states.Kept().add(np.arange(count), pairs)
    scored = bootstrap.ratios(kept.columns())
    return {name: score.value for name, score in scored.items()}

  return scores
