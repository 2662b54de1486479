"""Small encoders of conditions: class ids and maps.

CompVis/latent-diffusion: ldm/modules/encoders/modules.py.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import linear
from pyramid_jax.networks.layers import resampling


class ClassEmbedder(nn.Module):
  """A learned token for every class (ClassEmbedder)."""

  n_classes: int  # rows of the table, including any for no class
  dim: int  # width of a token

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """Maps class ids (B,) to tokens (B, 1, dim) float32."""
    return nn.Embed(
      self.n_classes,
      self.dim,
      embedding_init=nn.initializers.normal(1.0),
      name='embedding',
    )(ids)[:, None]


class SpatialRescaler(nn.Module):
  """Halves a map some times, then mixes its channels (SpatialRescaler).

  Halving takes the mean of 2 x 2 pixels; an odd side loses its last row.
  """

  n_stages: int = 1  # halvings
  # Of the result, None to keep the channels as they are.
  out_channels: int | None = None
  bias: bool = False  # whether mixing adds a bias

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H / 2^n, W / 2^n, out_channels)."""
    for _ in range(self.n_stages):
      x = resampling.average_pool(x)
    if self.out_channels is None:
      return x
    return linear.Linear(
      self.out_channels, use_bias=self.bias, name='channel_mapper'
    )(x)


def one_hot(mask: jax.Array, classes: int) -> jax.Array:
  """Maps a semantic map (B, H, W) of class ids to (B, H, W, classes)."""
  return jax.nn.one_hot(mask, classes, dtype=jnp.float32)
