"""Small encoders of conditions: class ids and maps.

CompVis/latent-diffusion: ldm/modules/encoders/modules.py.
"""

from flax import linen as nn
import jax

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import resampling


class ClassEmbedder(nn.Module):
  """A learned token for every class (ClassEmbedder)."""

  n_classes: int  # rows of the table, including any for no class
  dim: int  # width of a token

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """Maps class ids (B,) to tokens (B, 1, dim) float32."""
    table = affine.embed(self.n_classes, self.dim, 1.0, 'embedding')
    return table(ids)[:, None]


class SpatialRescaler(nn.Module):
  """Halves a map some times, then mixes its channels (SpatialRescaler)."""

  n_stages: int = 1  # averages over 2 x 2 pixels
  out_channels: int | None = None  # None leaves the channels as they are
  bias: bool = False  # whether mixing adds a bias

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H / 2^n, W / 2^n, out_channels)."""
    for _ in range(self.n_stages):
      x = resampling.average_pool(x)
    if self.out_channels is None:
      return x
    return affine.Linear(
      self.out_channels, use_bias=self.bias, name='channel_mapper'
    )(x)
