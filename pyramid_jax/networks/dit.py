"""DiT: a plain transformer on the patches of a latent (arXiv:2212.09748).

facebookresearch/DiT: models.py, DiT. The noise level and the class scale,
shift and gate the layers of every block (adaLN-Zero).
"""

from collections.abc import Callable
import functools
from typing import Any

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax import placement
from pyramid_jax.networks import latent_diffit
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import resampling
from pyramid_jax.networks.layers import transformer


def modulated(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
  """Returns the norm of x (B, H, W, C) without its own parameters, modulated.

  `shift` and `scale` are (B or 1, 1, 1, C).
  """
  h = norms.LayerNorm(1e-6, affine=False)(x)
  return h * (1 + scale) + shift


def modulation(
  cond: jax.Array, count: int, width: int, name: str
) -> list[jax.Array]:
  """Maps cond (B, D) to `count` vectors (B, 1, 1, width), zeros at first."""
  project = affine.Linear(count * width, name=name, **affine.ZEROS)
  return jnp.split(project(nn.silu(cond))[:, None, None], count, axis=-1)


class DiTBlock(nn.Module):
  """Self-attention, then a feed-forward, each modulated and gated."""

  heads: int
  mlp_ratio: float = 4.0
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    cond: jax.Array,
    train: bool = False,
    window: int | None = None,
    context: transformer.Context | None = None,
    outside: jax.Array | None = None,
  ) -> jax.Array:
    """Maps (B, H, W, C) to the same shape.

    Args:
      cond: (B or 1, D), the embedding of the noise level and labels.
      train: without effect, as the arguments below are, which the blocks of
        DiffiT take.
    """
    del train, window, context, outside
    _, height, _, width = x.shape
    parts = modulation(cond, 6, width, 'adaLN_modulation_1')
    parts = [part.astype(self.dtype) for part in parts]
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
    h = modulated(x, shift, scale).astype(self.dtype)
    three = affine.LinearParts(3 * width, 3, name='attn_qkv', **self._fields())
    heads = functools.partial(
      rearrange, pattern='b y x (h d) -> b (y x) h d', h=self.heads
    )
    q, k, v = (placement.split(heads(x), 2, 'heads') for x in three(h))
    h = attention.dot_product_attention(q, k, v, implementation=self.attention)
    h = rearrange(h, 'b (y x) h d -> b y x (h d)', y=height)
    x = x + gate * self._linear('attn_proj', width)(h)
    h = modulated(x, mlp_shift, mlp_scale).astype(self.dtype)
    h = self._linear('mlp_fc1', int(width * self.mlp_ratio))(h)
    h = placement.split(h, -1, 'hidden values')
    h = nn.gelu(h, approximate=True)
    return x + mlp_gate * self._linear('mlp_fc2', width)(h)

  def _linear(self, name: str, features: int) -> affine.Linear:
    return affine.Linear(features, name=name, **self._fields())

  def _fields(self) -> dict[str, Any]:
    initial = affine.zero_bias(nn.initializers.xavier_uniform())
    return {'dtype': self.dtype, **initial}


class DiT(latent_diffit.LatentDiffiT):
  """Predicts the noise of a latent, and what its variance is.

  The defaults are the released DiT-XL/2 for images of 256 pixels; that for 512
  has `input_size` 64. The table of positions fits one size only.
  """

  family = 'dit'

  def check_options(self) -> None:
    super().check_options()
    if self.time_token != 'tmsa':
      raise ValueError(
        f'time_token = {self.time_token!r} is an option of DiffiT, DiT has none'
      )

  def make_block(self, windows: Any) -> Callable[..., nn.Module]:
    del windows  # There are no relative positions.
    return functools.partial(
      self.recomputed(DiTBlock),
      heads=self.num_heads,
      mlp_ratio=self.mlp_ratio,
      dtype=self.dtype,
      attention=self.attention,
    )

  def finish(self, h: jax.Array, cond: jax.Array) -> jax.Array:
    shift, scale = modulation(
      cond, 2, self.hidden_size, 'final_layer_adaLN_modulation_1'
    )
    h = modulated(h, shift, scale)
    width = self.patch_size**2 * self.out_channels
    h = affine.Linear(width, name='final_layer_linear', **affine.ZEROS)(h)
    return resampling.depth_to_space(h, self.patch_size)
