"""The neighbours of the texts of a request, found in an index of images."""

from collections.abc import Mapping
import functools
from typing import Any
from typing import cast

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.conditioning import retrieval
from pyramid_jax.data.caches import neighbour_index
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.systems import sampled
from pyramid_jax.systems import system as system_lib


Rows = dict[str, np.ndarray]


def added(
  rows: Rows,
  config: ConfigDict,
  system: Any,
  weights: system_lib.Weights,
  mesh: Mesh,
) -> Rows:
  """Returns the rows of a request, with the neighbours of its texts.

  They are `neighbours` (N, k, D), k = `config.condition.prompt_neighbours`,
  where the condition is retrieval, texts are given and k is not 0.

  Raises:
    UserError: an index that is missing, damaged, or of too few images.
    ValueError: there is no encoder of texts.
  """
  c = config.condition
  if c.task != retrieval.TASK or not c.prompt_neighbours:
    return rows
  if retrieval.IDS not in rows:
    return rows
  index = _index(c.neighbour_index, c.dim)
  queries = embeddings(system, weights, mesh, rows[retrieval.IDS])
  found = index.search(queries, c.prompt_neighbours)
  return {**rows, retrieval.KEY: index.vectors(found)}


@functools.lru_cache(maxsize=1)
def _index(given: str, width: int) -> neighbour_index.NeighbourIndex:
  return neighbour_index.NeighbourIndex(given, width)


def embeddings(
  system: Any, weights: system_lib.Weights, mesh: Mesh, ids: np.ndarray
) -> np.ndarray:
  """Returns the embeddings (N, D) float32 of texts, given their ids (N, L).

  Raises:
    ValueError: there is no encoder of texts.
  """
  encoder = cast(retrieval.RetrievalEncoder, sampled.encoder_of(system))

  def query(weights: system_lib.Weights, batch: Mapping[str, jax.Array]) -> Any:
    tree = encoder.weights(system.generator(weights), weights.frozen)
    return encoder.query(tree, batch[retrieval.IDS])

  batch = mesh_lib.spread(mesh, {retrieval.IDS: ids})
  found = processes.to_host(jax.jit(query)(weights, batch))
  return np.asarray(found[: len(ids), 0], np.float32)
