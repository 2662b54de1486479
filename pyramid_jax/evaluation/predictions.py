"""Scores of an edge predictor in training; see `systems.sketch`."""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax import pipeline
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.metrics import edges as edges_lib
from pyramid_jax.systems import system as system_lib


PARTS = (0.5, 0.7, 0.9)  # of the noise's time, where edges are predicted


def scorer(
  pipe: pipeline.Pipeline, reader: reader_lib.Reader, count: int
) -> Callable[[pipeline.Pipeline], dict[str, float]]:
  """Returns a function from a predictor to its scores on new images.

  At several noise levels the squared error of what is predicted, and the F1
  of the edges behind it.

  Args:
    pipe: of predictor and base; its weights do not matter.
    reader: of the validation split.
    count: of the images.
  """
  host = batches_lib.Batches(reader, count, seed=0, shuffle=False).at(0)
  arrays = mesh_lib.spread(pipe.mesh, host)
  system = cast(system_lib.Predicting, pipe.system)

  @jax.jit
  def predict(weights, batch, part):
    batch = reader.finish(batch)
    parts = jnp.full(batch['image'].shape[:1], part)
    errors, edges = system.predicted(weights, jax.random.key(0), batch, parts)
    return errors.mean(), edges, system.target_edges(weights.frozen, batch)

  def scores(pipe: pipeline.Pipeline) -> dict[str, float]:
    found_scores = {}
    for part in PARTS:
      error, found, wanted = predict(pipe.weights, arrays, part)
      maps = (np.asarray(x) > 0 for x in (found, wanted))
      found_scores[f'error_at_{part}'] = float(error)
      found_scores[f'edge_f1_at_{part}'] = float(
        edges_lib.compare(*maps)['f1'].mean()
      )
    return found_scores

  return scores
