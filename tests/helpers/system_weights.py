"""Weights for tests of systems: random numbers in every leaf."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.distributed import initial
from pyramid_jax.interop import parts
from pyramid_jax.systems import system as system_lib


KEY = jax.random.key(0)


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
  params, extra = jax.eval_shape(system.init, KEY)
  frozen = {
    name: jax.eval_shape(part.init, KEY)
    for name, part in system.pretrained_parts().items()
  }
  return system_lib.Weights(params=params, frozen=frozen, extra=extra)


def initial_extra(system):
  """Returns the untrained state with which a system begins."""
  return initial.evaluate(lambda key: system.init(key)[1], KEY)


def initial_values(system, seed=0):
  """Returns (parameters, untrained state) with which a system begins."""
  key = jax.random.key(seed)
  return initial.evaluate(system.init, key)


def weights_of(system):
  """Returns random weights, and 0.5 in all of the untrained state."""
  shapes = shapes_of(system)
  return system_lib.Weights(
    params=fill(shapes.params),
    frozen={name: fill(tree, 1) for name, tree in shapes.frozen.items()},
    extra=jax.tree.map(lambda s: jnp.full(s.shape, 0.5), shapes.extra),
  )


def write_first_stage(system, folder: pathlib.Path) -> pathlib.Path:
  """Writes the weight file of a first stage that was not trained.

  Args:
    system: one that has a first stage.
    folder: exists; the file is written there.

  Returns:
    The path of the file, for `first_stage.checkpoint`.
  """
  part = system.pretrained_parts()['first_stage']
  path = folder / 'params.safetensors'
  parts.write(part.family, path, initial.evaluate(part.init, KEY))
  return path
