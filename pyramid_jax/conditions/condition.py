"""The arrays that condition a network."""

import flax.struct
import jax


@flax.struct.dataclass
class Condition:
  """An encoded condition, ready for cross-attention.

  Attributes:
    context: (B, L, D) tokens, or None for an unconditional system.
    null: (B, L, D) tokens of the null condition for classifier-free guidance.
  """

  context: jax.Array | None = None
  null: jax.Array | None = None
