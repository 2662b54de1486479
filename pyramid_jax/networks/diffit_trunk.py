"""The body that the DiffiTs on latents share."""

from collections.abc import Callable
from collections.abc import Sequence
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import caching
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import remat
from pyramid_jax.networks.layers import resampling
from pyramid_jax.networks.layers import tmsa


FREQUENCIES = 256  # channels of the sines and cosines of the noise level
BLOCKS = 'blocks'  # the scanned blocks; alone they are blocks_0, blocks_1 ...


class Trunk(nn.Module):
  """What the DiffiTs on latents have in common.

  A derived network calls the methods below from its compact `__call__`.
  """

  patch_size: int = 2  # side of the patches that become tokens
  # Width of the tokens, a multiple of 4 and of `num_heads`.
  hidden_size: int = 1152
  depth: int = 28  # the paper says 30, its parameter count 28
  num_heads: int = 16
  mlp_ratio: float = 4.0  # hidden width of the feed-forwards over the tokens'
  num_classes: int = 1000  # labels, 0 for a network without
  dtype: jnp.dtype = jnp.float32
  remat: str = 'none'
  # Whether the blocks are one `lax.scan`, which compiles in a time that does
  # not grow with depth; their parameters then have a leading axis.
  scan: bool = True
  attention: str = 'auto'
  time_token: str = 'tmsa'  # one of `tmsa.TIME_TOKENS`; 'tmsa' in the release

  def check_options(self) -> None:
    """Raises ValueError if attributes contradict each other."""
    self.check_sides()
    if self.hidden_size % 4 or self.hidden_size % self.num_heads:
      raise ValueError(
        f'hidden_size = {self.hidden_size} must be a multiple of 4 and of '
        f'num_heads = {self.num_heads}.'
      )
    if self.depth < 1 or self.num_classes < 0:
      raise ValueError(
        f'depth = {self.depth} must be positive and num_classes = '
        f'{self.num_classes} at least 0.'
      )

  def check_sides(self) -> None:
    """Raises ValueError if a map cannot be cut into patches."""
    raise NotImplementedError

  def embed_patches(self, x: jax.Array, name: str) -> jax.Array:
    """Maps (B, H, W, C) to tokens, (B, H / p, W / p, hidden_size)."""
    return affine.Conv(
      self.hidden_size,
      self.patch_size,
      self.patch_size,
      padding=0,
      dtype=self.dtype,
      name=name,
      **affine.zero_bias(_patch_init),
    )(x)

  def embed_level(self, t: jax.Array, name: str = 't_embedder') -> jax.Array:
    """Returns the embedding of noise levels (B,), (B, hidden_size)."""
    layer = lambda number: affine.Linear(
      self.hidden_size,
      name=f'{name}_mlp_{number}',
      **affine.zero_bias(nn.initializers.normal(0.02)),
    )
    emb = layer(0)(embeddings.timestep_embedding(t, FREQUENCIES))
    return layer(2)(nn.silu(emb))

  def embed_id(self, ids: jax.Array, rows: int, name: str) -> jax.Array:
    """Returns rows (B, hidden_size) of a learned table, for ids (B,)."""
    return affine.embed(rows, self.hidden_size, 0.02, name)(ids)

  def head(self, h: jax.Array, channels: int, name: str) -> jax.Array:
    """Maps (B, H / p, W / p, hidden_size) to (B, H, W, channels) float32."""
    h = nn.silu(norms.LayerNorm(1e-6, affine=False)(h))
    width = self.patch_size**2 * channels
    h = affine.Linear(width, name=name, **affine.ZEROS)(h)
    return resampling.depth_to_space(h, self.patch_size)

  def make_block(
    self, windows: int | Sequence[int]
  ) -> Callable[..., nn.Module]:
    """Returns what makes a block of a name; see `walk`."""
    return functools.partial(
      self.recomputed(tmsa.DiffiTBlock),
      heads=self.num_heads,
      window=windows,
      mlp_ratio=self.mlp_ratio,
      time_token=self.time_token,
      dtype=self.dtype,
      attention=self.attention,
    )

  def recomputed(self, module: type[nn.Module]) -> Callable[..., nn.Module]:
    """Returns a class of blocks, whose activations `remat` recomputes."""
    static = (3, 4)  # train and window
    return remat.wrapped(module, self.remat, static, in_loop=self.scan)

  def walk(
    self,
    h: jax.Array,
    cond: jax.Array,
    windows: int | Sequence[int],
    *,
    context: jax.Array | None = None,
    outside: jax.Array | None = None,
    found: dict[str, jax.Array] | None = None,
  ) -> jax.Array:
    """Maps tokens (B, grid, grid, hidden_size) through all blocks.

    Args:
      cond: (B or 1, hidden_size), the embedding of the noise level and labels.
      windows: the grid, or all grids that the blocks have tables of biases for.
      context: (B, S, E) tokens to attend to, or None.
      outside: (B, grid * grid, S) distances from the places of the context.
      found: filled with the result of every block; None for nothing.
    """
    block = self.make_block(windows)
    grid = None if isinstance(windows, int) else h.shape[1]
    if not self.scan:
      for i in range(self.depth):
        h = block(name=f'{BLOCKS}_{i}')(h, cond, False, grid, context, outside)
        if found is not None:
          found[f'block{i + 1}'] = h
      return h

    def step(block, h, cond, context, outside):
      h = block(h, cond, False, grid, context, outside)
      return h, None if found is None else h

    scanned = nn.scan(
      step,
      variable_axes={'params': 0, caching.COLLECTION: 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=self.depth,
    )
    h, after = scanned(block(name=BLOCKS), h, cond, context, outside)
    if found is not None:
      found.update({f'block{i + 1}': after[i] for i in range(self.depth)})
    return h


# Xavier's limit for the kernel (p, p, C, D) as one matrix (p * p * C, D).
_patch_init = nn.initializers.xavier_uniform(in_axis=(0, 1, 2), out_axis=3)
