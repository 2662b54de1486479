"""Measurements of the first batch, before the first step."""

from collections.abc import Callable
from typing import Any
from typing import Protocol
from typing import runtime_checkable

import jax

from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
# shape -> standard normal numbers
Normal = Callable[[tuple[int, ...]], jax.Array]


class OverBatch(Protocol):
  """A walk over a batch, microbatch by microbatch."""

  def __call__(
    self, key: jax.Array, function: Callable[[Batch, Normal], Any]
  ) -> Any:
    """Returns the results of a function, stacked over M microbatches.

    Args:
      key: of the function's draws.
      function: (batch, normal) -> tree of arrays; `batch` has B / M rows, and
        `normal(shape)` gives these rows of a draw for all B.

    Returns:
      The tree with a first axis of M.
    """


@runtime_checkable
class Measuring(Protocol):
  """A system whose untrained state holds numbers of the first batch."""

  def measure(
    self, frozen: Params, extra: Params, key: jax.Array, over: OverBatch
  ) -> Params:
    """Returns `extra` with the measurements before the first step.

    Args:
      frozen: {part: tree}, the weights of `pretrained_parts`.
      extra: the untrained state of `init`.
      key: that `losses` gets in the first step.
      over: walks over the batch of the first step.
    """
