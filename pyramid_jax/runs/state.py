"""The state of a training run, as its checkpoints hold it."""

from typing import Any

from flax import traverse_util
import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
  """All that a run needs to resume; random keys follow from `step`."""

  step: jax.Array  # () int32, finished updates
  params: Any  # {loss name: tree}, float32
  ema: Any  # the averaged part of `params`, the same nested dicts pruned
  opt_state: Any  # {loss name: optimizer state}
  extra: Any  # the untrained state of the system


def averaged(params: Any, ema: Any) -> Any:
  """Returns `params` with the averages where there are some."""
  leaves = traverse_util.flatten_dict(params)
  return traverse_util.unflatten_dict(leaves | traverse_util.flatten_dict(ema))


def all_finite(tree: Any) -> jax.Array:
  """Returns (): whether no float of a tree is NaN or infinite; traceable."""
  finite = jnp.ones((), bool)
  for leaf in jax.tree.leaves(tree):
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
      finite &= jnp.isfinite(leaf).all()
  return finite
