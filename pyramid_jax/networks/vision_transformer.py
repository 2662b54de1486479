"""Transformers of images whose features tables compare: CLIP's and DINOv2's."""

from collections.abc import Mapping
from typing import Any

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import options
from pyramid_jax.networks.layers import prenorm
from pyramid_jax.networks.layers import repeated
from pyramid_jax.networks.layers import resampling


# (mean, standard deviation) of the channels, in [0, 1], that are normalised
# away: those of CLIP (openai/CLIP: clip/clip.py), and of ImageNet.
Scaling = tuple[tuple[float, float, float], tuple[float, float, float]]
CLIP_SCALING: Scaling = (
  (0.48145466, 0.4578275, 0.40821073),
  (0.26862954, 0.26130258, 0.27577711),
)
IMAGENET_SCALING: Scaling = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def scaled(images: jax.Array, scaling: Scaling) -> jax.Array:
  """Maps (B, H, W, 3) in [0, 255] to float32 of mean 0, deviation 1."""
  mean, deviation = (np.asarray(x, np.float32) for x in scaling)
  return (images.astype(jnp.float32) / 255 - mean) / deviation


class VisionTransformer(nn.Module):
  """Maps images to the state of their class token.

  Blocks on patches and one class token with learned positions. The positions of
  another grid than theirs are interpolated as DINOv2 does (facebookresearch/
  dinov2: dinov2/models/vision_transformer.py, interpolate_pos_encoding, without
  registers).
  """

  dim: int  # width of the tokens
  depth: int
  heads: int
  mlp_dim: int  # hidden width of the feed-forwards
  patch: int  # side of a patch, pixels
  grid: int  # patches along a side for which there are positions
  hidden_act: str = 'gelu'  # see `prenorm.PreNormBlock`
  eps: float = 1e-6  # of the norms
  has_patch_bias: bool = True
  has_first_norm: bool = False  # whether the blocks begin with normed tokens
  has_scales: bool = True  # see `prenorm.PreNormBlock`
  # Width of what the state is projected to, None for the state.
  projection_dim: int | None = None
  dtype: jnp.dtype = jnp.float32
  attention: str = 'auto'
  scan_blocks: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, 3), sides multiples of `patch`, to (B, D) float32.

    D is `projection_dim`, or `dim` without a projection.
    """
    options.check_image('a vision transformer', x, self.patch)
    if x.shape[1] % self.patch or x.shape[2] % self.patch:
      raise ValueError(
        f'the sides of {x.shape} must be multiples of {self.patch}.'
      )
    norm = lambda name: norms.LayerNorm(self.eps, self.dtype, name=name)
    x = self._tokens(x).astype(self.dtype)
    if self.has_first_norm:
      x = norm('first_norm')(x)
    names = [f'layers_{i}' for i in range(self.depth)]

    def step(_, i, x, __):
      block = prenorm.PreNormBlock(
        self.heads,
        self.mlp_dim,
        self.hidden_act,
        self.dtype,
        self.attention,
        eps=self.eps,
        has_scales=self.has_scales,
        name=names[i],
      )
      return block(x), None

    x, _ = repeated.run(self, step, names, x, least=self.scan_blocks)
    x = norm('norm')(x[:, 0]).astype(jnp.float32)
    if self.projection_dim is None:
      return x
    return affine.Linear(self.projection_dim, use_bias=False, name='proj')(x)

  def _tokens(self, x: jax.Array) -> jax.Array:
    """Returns (B, 1 + patches, dim), the class token first."""
    draw = nn.initializers.normal(0.02)
    patches = affine.Conv(
      self.dim,
      self.patch,
      self.patch,
      padding=0,
      use_bias=self.has_patch_bias,
      dtype=self.dtype,
      name='patches',
    )(x)
    height, width = patches.shape[1:3]
    patches = rearrange(patches, 'b h w c -> b (h w) c')
    first = self.param('class_token', draw, (self.dim,))
    places = self.param('positions', draw, (1 + self.grid**2, self.dim))
    first = jnp.broadcast_to(first, (len(x), 1, self.dim))
    tokens = jnp.concatenate([first, patches.astype(jnp.float32)], axis=1)
    return tokens + self._positions(places, height, width)

  def _positions(self, table: jax.Array, height: int, width: int) -> jax.Array:
    """Returns (1 + height * width, dim), the table if that is its grid."""
    if height == width == self.grid:
      return table
    square = rearrange(table[1:], '(h w) c -> h w c', h=self.grid)
    rows, columns = (
      # DINOv2 gives the scale of a grid that is a tenth larger.
      np.float32(
        resampling.cubic_weights(self.grid, side, self.grid / (side + 0.1))
      )
      for side in (height, width)
    )
    resized = jnp.einsum(
      'yh,hwc,xw->yxc', rows, square, columns, precision='highest'
    )
    resized = rearrange(resized, 'h w c -> (h w) c')
    return jnp.concatenate([table[:1], resized])


def clip(**sizes: Any) -> VisionTransformer:
  """Returns CLIP's tower of images (openai/CLIP: clip/model.py)."""
  return VisionTransformer(
    **sizes,
    hidden_act='quick_gelu',
    eps=1e-5,
    has_patch_bias=False,
    has_first_norm=True,
    has_scales=False,
  )


# The published towers of CLIP by the names of scores -> sizes.
CLIPS: Mapping[str, Mapping[str, int]] = {
  'b32': {'patch': 32, 'grid': 7, 'dim': 768, 'depth': 12},
  'b16': {'patch': 16, 'grid': 14, 'dim': 768, 'depth': 12},
  'l14': {'patch': 14, 'grid': 16, 'dim': 1024, 'depth': 24},
  'l14_336': {'patch': 14, 'grid': 24, 'dim': 1024, 'depth': 24},
}
# Those of DINOv2.
DINOS: Mapping[str, Mapping[str, int]] = {
  's14': {'patch': 14, 'grid': 37, 'dim': 384, 'depth': 12},
  'b14': {'patch': 14, 'grid': 37, 'dim': 768, 'depth': 12},
  'l14': {'patch': 14, 'grid': 37, 'dim': 1024, 'depth': 24},
  'g14': {'patch': 14, 'grid': 37, 'dim': 1536, 'depth': 40},
}


def variant(
  network: VisionTransformer, published: Mapping[str, Mapping[str, int]]
) -> str:
  """Returns the name of a network among published ones.

  Raises:
    ValueError: its sizes are those of none.
  """
  names = next(iter(published.values()))
  found = {name: getattr(network, name) for name in names}
  for name, sizes in published.items():
    if sizes == found:
      return name
  raise ValueError(
    f'a network of {found}; the published ones are {", ".join(published)}'
  )
