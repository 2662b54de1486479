"""Family `ldm.retrieval`: samples of texts with their neighbours.

CompVis/latent-diffusion: scripts/knn2img.py, through the library's index,
encoder and sampler.
"""

import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np

from pyramid_jax.conditioning import retrieval
from pyramid_jax.data.caches import neighbour_index
from tests.parity import families
from tests.parity.families import ldm_samplers


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes `nns`, `context` and `x0`."""
  config = dict(case.config)
  text, database = case.inputs['text'], case.inputs['database']
  count, width = config.pop('knn'), text.shape[1]
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'database.npz'
    np.savez(path, embedding=database)
    index = neighbour_index.NeighbourIndex(str(path), width)
  rows = index.search(text, count)
  encoder = retrieval.RetrievalEncoder(width=width, count=count)
  # The text tower has a family of its own; its token is one more vector.
  token = neighbour_index.unit(text)[:, None]
  tokens = np.concatenate([token, index.vectors(rows)], axis=1)
  batch = {retrieval.KEY: jnp.asarray(tokens)}
  found = encoder.encode({}, batch).context
  null = encoder.null({}, batch)
  assert found is not None
  assert null is not None
  sampled = families.Case(
    family='ldm.ddim',
    config={**config, 'conditioning_key': 'crossattn'},
    state=case.state,
    inputs={
      'x_T': case.inputs['x_T'],
      'context': np.asarray(found),
      'unconditional_context': np.asarray(null.context),
    },
    expected={'x0': case.expected['x0']},
    tolerance=case.tolerance,
  )
  out = ldm_samplers.run(sampled)
  return {
    'nns': rows.astype(np.int32),
    'context': np.asarray(found),
    'x0': out['x0'],
  }
