"""The transformer block of CLIP and DINOv2."""

from collections.abc import Callable
from collections.abc import Mapping
import functools

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax import placement
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import parameters


# The activations of feed-forwards, by the names of huggingface/transformers;
# OpenAI's is an approximation of a GELU, that of OpenCLIP and DINOv2 is exact.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),
  'gelu': functools.partial(nn.gelu, approximate=False),
}
SWIGLU = 'swiglu'  # a gated feed-forward (arXiv:2002.05202)


class PreNormBlock(nn.Module):
  """Self-attention, then a feed-forward, each on a LayerNorm."""

  heads: int
  mlp_dim: int  # hidden width of the feed-forward
  hidden_act: str = 'quick_gelu'  # a key of `ACTIVATIONS`, or `SWIGLU`
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'
  is_causal: bool = False  # whether a token attends to none behind it
  eps: float = 1e-5  # of the norms
  # Whether learned factors of the channels scale what is added (LayerScale,
  # arXiv:2103.17239).
  has_scales: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, N, C) to the same shape."""
    norm = lambda name: norms.LayerNorm(self.eps, self.dtype, name=name)
    x = x + self._scaled('scale1', self._attended(norm('layer_norm1')(x)))
    return x + self._scaled('scale2', self._mlp(norm('layer_norm2')(x)))

  def _attended(self, h: jax.Array) -> jax.Array:
    n, dim = h.shape[1:]
    q, k, v = (
      rearrange(self._layer(name, dim)(h), 'b n (h d) -> b n h d', h=self.heads)
      for name in ('q_proj', 'k_proj', 'v_proj')
    )
    q, k, v = (placement.split(part, 2, 'heads') for part in (q, k, v))
    bias = None
    if self.is_causal:
      past = jnp.tril(jnp.ones((n, n), bool))
      bias = jnp.where(past, 0.0, jnp.finfo(jnp.float32).min)
    h = attention.dot_product_attention(
      q, k, v, bias=bias, implementation=self.attention
    )
    return self._layer('out_proj', dim)(rearrange(h, 'b n h d -> b n (h d)'))

  def _mlp(self, h: jax.Array) -> jax.Array:
    dim = h.shape[-1]
    split = lambda part: placement.split(part, -1, 'hidden values')
    if self.hidden_act == SWIGLU:
      both = affine.LinearParts(
        features=2 * self.mlp_dim, parts=2, dtype=self.dtype, name='w12'
      )(h)
      gate, value = map(split, both)
      return self._layer('w3', dim)(nn.silu(gate) * value)
    h = split(self._layer('fc1', self.mlp_dim)(h))
    return self._layer('fc2', dim)(ACTIVATIONS[self.hidden_act](h))

  def _layer(self, name: str, features: int) -> affine.Linear:
    return affine.Linear(features, dtype=self.dtype, name=name)

  def _scaled(self, name: str, h: jax.Array) -> jax.Array:
    if not self.has_scales:
      return h
    ones = nn.initializers.ones
    return h * parameters.get(self, name, ones, h.shape[-1:], self.dtype)
