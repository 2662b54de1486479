"""Quantisation to a grid that is fixed: codes without a codebook."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np


_SLACK = 1e-3  # Bounds are so much wider, so that outer levels are reached.


def levels_of(num_codes: int, features: int) -> int:
  """Returns the levels of a channel: `features` of them make `num_codes`.

  Raises:
    ValueError: there is no such number of 2 and more.
  """
  levels = round(num_codes ** (1 / features))
  if levels < 2 or levels**features != num_codes:
    raise ValueError(
      f'n_embed is {num_codes}, must be a power L**{features} with L of at'
      f' least 2, as a grid of {features} channels (embed_dim) has it.'
    )
  return levels


class GridQuantizer(nn.Module):
  """Rounds every channel to one of a few levels in [-1, 1].

  Finite scalar quantisation, arXiv:2309.15505; with two levels the look-up free
  quantisation of arXiv:2310.05737. No code can die of lack of use, and there is
  no codebook loss. It has no parameters; everything is float32.
  """

  num_codes: int  # levels ** features
  features: int  # channels

  @property
  def levels(self) -> int:
    """The levels of a channel."""
    return levels_of(self.num_codes, self.features)

  def entries(self) -> jax.Array:
    """Returns all codes as vectors (num_codes, features), float32."""
    number = np.arange(self.num_codes)[:, None]
    digits = number // self._places() % self.levels
    return jnp.asarray(2 * digits / (self.levels - 1) - 1, jnp.float32)

  def _places(self) -> np.ndarray:
    return self.levels ** np.arange(self.features)

  def bounded(self, z: jax.Array) -> jax.Array:
    """Maps z (..., features) to the latents, all but in [-1, 1], float32."""
    return (1 + _SLACK) * jnp.tanh(z.astype(jnp.float32))

  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Quantises latents z (..., features), those of `bounded`.

    Returns:
      The levels, float32 of z's shape, whose gradient goes straight to z; the
      codes, (...) int32; and 0, the codebook loss.
    """
    if z.shape[-1] != self.features:
      raise ValueError(
        f'the grid has {self.features} channels, got z of shape {z.shape}.'
      )
    z = z.astype(jnp.float32)
    half = (self.levels - 1) / 2
    digits = jnp.round((jnp.clip(z, -1, 1) + 1) * half)
    found = z + jax.lax.stop_gradient(digits / half - 1 - z)
    codes = jnp.sum(digits.astype(jnp.int32) * self._places(), -1)
    return found, codes.astype(jnp.int32), jnp.zeros(())
