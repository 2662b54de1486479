"""The encoder of T5 v1.1, whose texts condition large models.

arXiv:1910.10683 and arXiv:2002.05202; google-research/text-to-text-transfer-
transformer; huggingface/transformers: T5EncoderModel. It is used frozen.
"""

from collections.abc import Mapping

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import linear
from pyramid_jax.networks.layers import norms


# The published sizes, as constructor fields and as those of a config.
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
  """Returns which row of the bias table each pair of places reads.

  Half of the rows are for keys after the query. Of either half, the first half
  tells distances apart; the rest covers distances up to `max_distance` evenly
  in their logarithm, and the last row all beyond.

  Args:
    length: tokens of a text.
    buckets: rows, a multiple of 4.
    max_distance: see above.

  Returns:
    (length, length) int32, queries first.
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

  No layer has a bias, and the logits of the attention are not scaled.

  Attributes:
    heads: number of heads.
    head_dim: width of a head; heads * head_dim need not be C.
    mlp_dim: hidden width of the feed-forward.
    dtype: of the activations.
  """

  heads: int
  head_dim: int
  mlp_dim: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
    """Maps (B, N, C) to the same shape.

    Args:
      x: (B, N, C).
      bias: (B or 1, heads, N, N), added to the logits.
    """
    b, n, dim = x.shape
    h = norms.RMSNorm(dtype=self.dtype, name='norm_attn')(x)
    width = self.heads * self.head_dim
    q, k, v = (
      self._linear(part, width)(h).reshape(b, n, self.heads, -1)
      for part in 'qkv'
    )
    h = attention.dot_product_attention(q, k, v, bias=bias, scale=1.0)
    x = x + self._linear('o', dim)(h.reshape(b, n, width))

    h = norms.RMSNorm(dtype=self.dtype, name='norm_ff')(x)
    gate = nn.gelu(self._linear('wi_0', self.mlp_dim)(h), approximate=True)
    h = gate * self._linear('wi_1', self.mlp_dim)(h)
    return x + self._linear('wo', dim)(h)

  def _linear(self, name: str, features: int) -> linear.Linear:
    return linear.Linear(features, use_bias=False, dtype=self.dtype, name=name)


class T5Encoder(nn.Module):
  """Token ids to states; the defaults are the sizes of XXL.

  Places are told by a bias of the attention alone, which the blocks share.

  Attributes:
    vocab_size: rows of the token embedding.
    dim: width of the states.
    depth: number of blocks.
    heads: of every block.
    head_dim: of every block.
    mlp_dim: hidden width of the feed-forwards.
    buckets: rows of the table of relative places.
    max_distance: see `relative_buckets`.
    dtype: of the activations and the result.
  """

  vocab_size: int = 32128
  dim: int = 4096
  depth: int = 24
  heads: int = 64
  head_dim: int = 64
  mlp_dim: int = 10240
  buckets: int = 32
  max_distance: int = 128
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, tokens: jax.Array, mask: jax.Array | None = None
  ) -> jax.Array:
    """Maps (B, N) token ids to (B, N, dim), the last hidden states.

    Args:
      tokens: (B, N) int32.
      mask: (B, N), which tokens are attended to; None: all of them. What
        comes out at the others means nothing.

    Raises:
      ValueError: shapes that do not fit.
    """
    if tokens.ndim != 2 or (mask is not None and mask.shape != tokens.shape):
      raise ValueError(
        'T5 takes tokens (B, N) and a mask of their shape, got'
        f' {tokens.shape} and {None if mask is None else mask.shape}.'
      )
    x = self._embed(self.vocab_size, self.dim, 'shared')(tokens)
    x = x.astype(self.dtype)
    rows = relative_buckets(tokens.shape[1], self.buckets, self.max_distance)
    table = self._embed(self.buckets, self.heads, 'relative_attention_bias')
    bias = jnp.moveaxis(table(jnp.asarray(rows)), -1, 0)[None]
    if mask is not None:
      lowest = jnp.finfo(jnp.float32).min
      bias = jnp.where(mask[:, None, None, :] > 0, bias, lowest)
    for i in range(self.depth):
      block = Block(
        self.heads, self.head_dim, self.mlp_dim, self.dtype, name=f'block_{i}'
      )
      x = block(x, bias)
    return norms.RMSNorm(dtype=self.dtype, name='final_layer_norm')(x)

  def _embed(self, rows: int, features: int, name: str) -> nn.Embed:
    normal = nn.initializers.normal(1.0)
    return nn.Embed(rows, features, embedding_init=normal, name=name)
