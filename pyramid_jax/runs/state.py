"""The state of a training run, as its checkpoints hold it."""

from typing import Any

from flax import traverse_util
import flax.struct
import jax


@flax.struct.dataclass
class TrainState:
  """All that a run needs to go on; no random key, that follows from `step`.

  Attributes:
    step: () int32, finished updates.
    params: {loss name: tree}, float32.
    ema: the averaged part of `params`, the same nested dicts pruned.
    opt_state: {loss name: optimizer state}.
    extra: the untrained state of the system.
  """

  step: jax.Array
  params: Any
  ema: Any
  opt_state: Any
  extra: Any


def averaged(params: Any, ema: Any) -> Any:
  """Returns `params` with the averages where there are some."""
  leaves = traverse_util.flatten_dict(params)
  return traverse_util.unflatten_dict(leaves | traverse_util.flatten_dict(ema))
