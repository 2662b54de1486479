"""The arrays that condition a network."""

from typing import Any

import flax.struct


@flax.struct.dataclass
class Condition:
  """An encoded condition, ready for cross-attention.

  Attributes:
    context: (B, L, D) tokens, or a tree of arrays that the network takes for
      them, or None for an unconditional system.
    null: the same of the null condition, for classifier-free guidance.
    steer: what a loss steers to, see `systems.sketch`.
  """

  context: Any = None
  null: Any = None
  steer: Any = None
