"""Random weights under which the features of Inception-v3 stay alive."""

from typing import Any

import jax
import numpy as np

from pyramid_jax.networks import inception


def variables(network: inception.InceptionV3) -> dict[str, Any]:
  """Returns parameters and statistics of a (small) network."""
  image = np.zeros((1, 107, 107, 3), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)
  rng = np.random.default_rng(0)

  def fill(path, leaf):
    noise = rng.normal(size=leaf.shape).astype(np.float32)
    name = path[-1].key
    if name == 'kernel':
      return noise * np.float32((2 / np.prod(leaf.shape[:-1])) ** 0.5)
    return 0.1 * noise + (1 if name in ('scale', 'var') else 0)

  return jax.tree_util.tree_map_with_path(fill, shapes)
