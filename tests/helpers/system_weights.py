"""Weights for tests of systems: random numbers in every leaf."""

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.systems import system as system_lib
from tests.helpers import quick_params


def fill(tree, seed=0):
  """Random weights everywhere, zero-initialised layers too."""
  leaves, structure = jax.tree.flatten(tree)
  rng = np.random.default_rng(seed)
  return jax.tree.unflatten(
    structure,
    [
      jnp.asarray(
        rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1]))),
        jnp.float32,
      )
      for leaf in leaves
    ],
  )


def shapes_of(system):
  """Returns the shapes of all weights of a system."""
  key = jax.random.key(0)
  params, extra = quick_params.shapes(lambda key: system.init(key, {}), key)
  frozen = {
    name: quick_params.shapes(part.init, key)
    for name, part in system.frozen_parts().items()
  }
  return system_lib.Weights(params=params, frozen=frozen, extra=extra)


def weights_of(system):
  """Returns random weights, and 0.5 in all of the untrained state."""
  shapes = shapes_of(system)
  return system_lib.Weights(
    params=fill(shapes.params),
    frozen={name: fill(tree, 1) for name, tree in shapes.frozen.items()},
    extra=jax.tree.map(lambda s: jnp.full(s.shape, 0.5), shapes.extra),
  )
