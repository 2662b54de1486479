"""The encoder of T5 v1.1, whose texts condition large models.

arXiv:1910.10683 and arXiv:2002.05202; google-research/text-to-text-transfer-
transformer; huggingface/transformers: T5EncoderModel. It is used frozen.
"""

from collections.abc import Mapping

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax import placement
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import repeated


# The published sizes as fields of `T5Encoder`.
SIZES: Mapping[str, Mapping[str, int]] = {
  'small': {'depth': 8, 'dim': 512, 'mlp_dim': 1024, 'heads': 6},
  'base': {'depth': 12, 'dim': 768, 'mlp_dim': 2048, 'heads': 12},
  'large': {'depth': 24, 'dim': 1024, 'mlp_dim': 2816, 'heads': 16},
  'xl': {'depth': 24, 'dim': 2048, 'mlp_dim': 5120, 'heads': 32},
  'xxl': {'depth': 24, 'dim': 4096, 'mlp_dim': 10240, 'heads': 64},
}
PAD_ID, END_ID = 0, 1


def relative_buckets(
  length: int, buckets: int = 32, max_distance: int = 128
) -> np.ndarray:
  """Returns which row of the bias table each pair of tokens reads.

  Half of the rows are for keys after the query. In each half, the first half
  has a row a distance, the rest covers distances up to `max_distance` tokens
  evenly in their logarithm, and the last row all beyond. The number of rows
  `buckets` is a multiple of 4; (length, length) int32, queries first.
  """
  places = np.arange(length)
  offset = places - places[:, None]
  distance = np.abs(offset)
  side = buckets // 2
  exact = side // 2
  growth = np.log(np.maximum(distance, 1) / exact)
  far = exact + np.floor(growth / np.log(max_distance / exact) * exact)
  row = np.where(distance < exact, distance, np.minimum(far, side - 1))
  return (row + side * (offset > 0)).astype(np.int32)


class Block(nn.Module):
  """Self-attention, then a gated feed-forward, each on an RMS norm.

  Layers have no bias, and the logits of the attention are not scaled.
  """

  heads: int
  head_dim: int
  mlp_dim: int
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
    """Maps (B, N, C) to the same shape; bias is (B or 1, heads, N, N)."""
    dim, width = x.shape[-1], self.heads * self.head_dim
    layer = lambda name, features: affine.Linear(
      features, use_bias=False, dtype=self.dtype, name=name
    )
    h = norms.RMSNorm(dtype=self.dtype, name='norm_attn')(x)
    q, k, v = (
      rearrange(layer(part, width)(h), 'b n (h d) -> b n h d', h=self.heads)
      for part in 'qkv'
    )
    q, k, v = (placement.split(part, 2, 'heads') for part in (q, k, v))
    h = attention.dot_product_attention(
      q, k, v, bias=bias, scale=1.0, implementation=self.attention
    )
    x = x + layer('o', dim)(rearrange(h, 'b n h d -> b n (h d)'))
    h = norms.RMSNorm(dtype=self.dtype, name='norm_ff')(x)
    gate = nn.gelu(layer('wi_0', self.mlp_dim)(h), approximate=True)
    h = gate * layer('wi_1', self.mlp_dim)(h)
    h = placement.split(h, -1, 'hidden values')
    return x + layer('wo', dim)(h)


class T5Encoder(nn.Module):
  """Maps token ids to states; the defaults are the sizes of XXL.

  Positions act only through a bias of the attention, which the blocks share.
  """

  vocab_size: int = 32128  # rows of the token embedding
  dim: int = 4096  # width of the states
  depth: int = 24
  heads: int = 64
  head_dim: int = 64
  mlp_dim: int = 10240  # hidden width of the feed-forwards
  buckets: int = 32  # rows of the table of relative positions
  max_distance: int = 128  # the longest that the table distinguishes, tokens
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'
  scan_blocks: int = 0

  @nn.compact
  def __call__(
    self, tokens: jax.Array, mask: jax.Array | None = None
  ) -> jax.Array:
    """Maps (B, N) token ids to (B, N, dim), the last hidden states.

    `mask` (B, N) says which tokens are attended to, None for all.
    """
    if tokens.ndim != 2 or (mask is not None and mask.shape != tokens.shape):
      raise ValueError(
        'T5 takes tokens (B, N) and a mask of their shape, got'
        f' {tokens.shape} and {None if mask is None else mask.shape}.'
      )
    x = affine.embed(self.vocab_size, self.dim, 1.0, 'shared')(tokens)
    x = x.astype(self.dtype)
    rows = relative_buckets(tokens.shape[1], self.buckets, self.max_distance)
    name = 'relative_attention_bias'
    table = affine.embed(self.buckets, self.heads, 1.0, name, has_rows=False)
    bias = table(jnp.asarray(rows))
    bias = rearrange(bias, 'q k h -> 1 h q k')
    if mask is not None:
      lowest = jnp.finfo(jnp.float32).min
      bias = jnp.where(mask[:, None, None, :] > 0, bias, lowest)
    names = [f'block_{i}' for i in range(self.depth)]

    def step(_, i, x, __):
      block = Block(
        self.heads,
        self.head_dim,
        self.mlp_dim,
        self.dtype,
        self.attention,
        name=names[i],
      )
      return block(x, bias), None

    x, _ = repeated.run(self, step, names, x, least=self.scan_blocks)
    return norms.RMSNorm(dtype=self.dtype, name='final_layer_norm')(x)
