"""The state of a training run, as its checkpoints hold it."""

from typing import Any

from flax import traverse_util
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.distributed import processes
from pyramid_jax.distributed import sharding


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


_all_finite = jax.jit(all_finite)


def not_finite(tree: Any) -> list[str]:
  """Returns the paths of the arrays that hold NaN or Inf.

  Arrays of accelerators are looked through there, one small program per shape;
  those of CPU devices by NumPy, which has nothing to compile.
  """

  def one(leaf: jax.Array) -> Any:
    is_here = leaf.is_fully_addressable or leaf.is_fully_replicated
    if is_here and all(d.platform == 'cpu' for d in leaf.devices()):
      return np.isfinite(np.asarray(leaf)).all()
    return _all_finite(leaf)

  leaves = {
    name: leaf
    for name, leaf in sharding.leaves(tree).items()
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  }
  finite = processes.to_host([one(leaf) for leaf in leaves.values()])
  return [name for name, ok in zip(leaves, finite, strict=True) if not ok]
