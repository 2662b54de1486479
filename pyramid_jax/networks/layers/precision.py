"""Element types of what must not be computed in fewer digits."""

import jax
import jax.numpy as jnp


def wide(x: jax.Array) -> jax.Array:
  """Returns x in float32; float64 stays what it is."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
