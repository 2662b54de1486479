"""A classifier of noisy states: the way down of a U-Net, then a pool."""

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import unet_trunk
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import parameters


POOLS = ('attention', 'adaptive', 'spatial', 'spatial_v2')
_HIDDEN = 2048  # width of the hidden layer of the spatial pools


class AttentionPool(nn.Module):
  """Attends from the mean of a map to the map and to the mean itself.

  openai/guided-diffusion: guided_diffusion/unet.py, AttentionPool2d.
  """

  features: int  # values of the result
  heads: int  # must divide the channels
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, features); H and W stay those of `init`."""
    _, height, width, channels = x.shape
    x = rearrange(x, 'b h w c -> b (h w) c')
    x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
    positions = parameters.get(
      self,
      'positional_embedding',
      nn.initializers.normal(channels**-0.5),
      (height * width + 1, channels),
      self.dtype,
    )
    x = x.astype(self.dtype) + positions
    three = affine.LinearParts(3 * channels, 3, dtype=self.dtype, name='qkv')
    q, k, v = (
      rearrange(part, 'b n (h d) -> b n h d', h=self.heads) for part in three(x)
    )
    y = attention.dot_product_attention(
      q[:, :1], k, v, implementation=self.attention
    )
    project = affine.Linear(self.features, dtype=self.dtype, name='c_proj')
    return project(rearrange(y, 'b 1 h d -> b (h d)'))


class Classifier(unet_trunk.Trunk):
  """Predicts the logits of `out_channels` classes of a noisy state.

  openai/guided-diffusion: guided_diffusion/unet.py, EncoderUNetModel, which
  CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py repeats
  for latents. The attributes are its constructor's arguments. It is called as a
  U-Net is, without conditions, and returns (B, out_channels) float32.
  """

  in_channels: int = 3
  # What makes a vector of the last map: 'attention' (which keeps the grid of
  # `init`), 'adaptive' (its mean), or, of the means of the results of all
  # entries, 'spatial' and 'spatial_v2' (with a norm).
  pool: str = 'attention'

  def channels(self, stage: int) -> int:
    del stage
    return self.in_channels

  def contradictions(self) -> dict[str, bool]:
    by_width = self.num_head_channels != -1
    return super().contradictions() | {
      f'pool must be one of {", ".join(POOLS)}': self.pool not in POOLS,
      "pool 'attention' needs num_head_channels": (
        self.pool == 'attention' and not by_width
      ),
      'n_embed, num_classes and use_spatial_transformer have no place here': (
        self.n_embed is not None
        or self.num_classes is not None
        or self.use_spatial_transformer
      ),
    }

  def walk(
    self,
    h: jax.Array,
    inputs: unet_trunk.BlockInputs,
    found: dict[str, jax.Array],
    control: None = None,
  ) -> jax.Array:
    """Returns the map of the middle, or the means of all maps (B, D)."""
    skips, h = self.descend(h, inputs, found)
    if not self.pool.startswith('spatial'):
      return h
    wide = (_wide(x).mean((1, 2)) for x in (*skips, h))
    return jnp.concatenate(list(wide), axis=-1)

  def head(self, h: jax.Array, stage: int) -> jax.Array:
    """Returns the logits (B, out_channels) of what `walk` returns."""
    del stage
    h, count = _wide(h), self.out_channels
    assert count is not None  # see contradictions
    dtype = h.dtype
    if self.pool.startswith('spatial'):
      return self._of_means(h, count)
    h = nn.silu(norms.GroupNorm(1e-5, dtype=dtype, name='out_0')(h))
    if self.pool == 'adaptive':
      last = affine.Linear(count, dtype=dtype, name='out_3', **affine.ZEROS)
      return last(h.mean((1, 2)))
    heads, _ = self.heads(h.shape[-1])
    pool = AttentionPool(count, heads, dtype, self.attention, name='out_2')
    return pool(h)

  def _of_means(self, h: jax.Array, count: int) -> jax.Array:
    """Returns the logits of means (B, D)."""
    h = affine.Linear(_HIDDEN, dtype=h.dtype, name=f'{self.pool}_0')(h)
    if self.pool == 'spatial':
      last = affine.Linear(count, dtype=h.dtype, name='spatial_2')
      return last(nn.relu(h))
    norm = norms.GroupNorm(1e-5, dtype=h.dtype, name='spatial_v2_1')
    last = affine.Linear(count, dtype=h.dtype, name='spatial_v2_3')
    return last(nn.silu(norm(h[:, None, None])[:, 0, 0]))


def _wide(x: jax.Array) -> jax.Array:
  """Returns x in float32 or wider, in which the reference pools."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
