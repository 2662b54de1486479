"""Latent DiffiT: a plain transformer on the patches of a latent.

NVlabs/DiffiT: diffit/diffit.py, DiffiT; arXiv:2312.02139, section 3.3. The
noise level and the class act through TMSA alone (`layers/tmsa.py`).
"""

from collections.abc import Sequence
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import linear
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import resampling
from pyramid_jax.networks.layers import taps as taps_lib
from pyramid_jax.networks.layers import tmsa


FREQUENCIES = 256  # channels of the sines and cosines of the noise level
# What blocks keep for the backward pass if they recompute their activations:
# the results of their linear layers, or nothing but what goes in.
REMAT_KEEPS = {
  'products': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'nothing': jax.checkpoint_policies.nothing_saveable,
}
BLOCKS = 'blocks'  # the scanned blocks; alone they are blocks_0, blocks_1 ...


class LatentDiffiT(nn.Module):
  """Predicts the noise of a latent, and what its variance is.

  The defaults are the released model for images of 256 pixels; `input_size`
  64 makes that for 512. A network runs at one size only: its tables of
  positions and of relative biases depend on it.

  Attributes:
    input_size: side of the latent, a multiple of `patch_size`.
    patch_size: side of the patches that become tokens.
    in_channels: of the latent.
    hidden_size: width of the tokens, a multiple of 4 and of `num_heads`.
    depth: number of blocks (the paper says 30, its parameter count 28).
    num_heads: of every attention.
    mlp_ratio: hidden width of the feed-forwards over the tokens'.
    class_dropout_prob: how often a label is replaced by the null class when
      training; 0 leaves the null class out.
    num_classes: labels, 0 for a network without; the null class is the one
      after the last.
    learn_sigma: whether the result has as many channels again, the raw
      values of the variance.
    dtype: of the activations; the embeddings and the result are float32.
    remat: whether blocks recompute their activations in the backward pass.
    remat_keeps: a key of `REMAT_KEEPS`. What is not kept with 'products' is
      little arithmetic; 'nothing' takes the least memory and another forward
      pass.
    scan: whether the blocks are one `lax.scan`, which compiles in a time that
      does not grow with depth; their parameters then have a leading axis.
    attention: which kernel attends, see `attention.dot_product_attention`.
    time_token: see `tmsa.DiffiTBlock`; 'tmsa' in the release.
  """

  input_size: int = 32
  patch_size: int = 2
  in_channels: int = 4
  hidden_size: int = 1152
  depth: int = 28
  num_heads: int = 16
  mlp_ratio: float = 4.0
  class_dropout_prob: float = 0.1
  num_classes: int = 1000
  learn_sigma: bool = True
  dtype: jnp.dtype = jnp.float32
  remat: bool = False
  remat_keeps: str = 'products'
  scan: bool = True
  attention: str = 'auto'
  time_token: str = 'tmsa'

  @property
  def grid(self) -> int:
    """Tokens of a side."""
    return self.input_size // self.patch_size

  @property
  def out_channels(self) -> int:
    """Channels of the result."""
    return self.in_channels * (2 if self.learn_sigma else 1)

  @property
  def label_rows(self) -> int:
    """Rows of the table of labels, the null class included if there is one."""
    return self.num_classes + (self.class_dropout_prob > 0)

  def check_options(self) -> None:
    """Raises ValueError if attributes contradict each other."""
    if self.patch_size < 1 or self.input_size % self.patch_size:
      raise ValueError(
        f'patch_size = {self.patch_size} must divide input_size = '
        f'{self.input_size}.'
      )
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
    if self.remat_keeps not in REMAT_KEEPS:
      raise ValueError(
        f'remat_keeps is {self.remat_keeps!r}, allowed: '
        f'{", ".join(REMAT_KEEPS)}.'
      )
    if not 0 <= self.class_dropout_prob < 1:
      raise ValueError(
        f'class_dropout_prob = {self.class_dropout_prob} must be in [0, 1).'
      )

  def _check_inputs(self, x: jax.Array, y: jax.Array | None) -> None:
    """Raises ValueError if arguments do not fit the attributes."""
    wanted = (self.input_size, self.input_size, self.in_channels)
    labels = None if y is None else y.shape
    fits = labels == (x.shape[:1] if self.num_classes else None)
    if x.ndim != 4 or x.shape[1:] != wanted or not fits:
      raise ValueError(
        f'x must be (B, {", ".join(map(str, wanted))}) with y '
        f'{"(B,)" if self.num_classes else None}, got {x.shape} and {labels}.'
      )

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    y: jax.Array | None = None,
    *,
    train: bool = False,
    taps: Sequence[str] = (),
  ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the prediction, and the activations of `taps` if there are.

    Args:
      x: (B, input_size, input_size, in_channels).
      t: (B,), or (1,) if the whole batch shares it; index of the noise level
        in the chain of training, which may be fractional.
      y: (B,) class ids in [0, num_classes], num_classes being the null class;
        None for a network without classes.
      train: whether labels are dropped, which needs a 'dropout' key.
      taps: names of activations: `block0` is what goes into the first block,
        `block1` what comes out of it, and so on up to `depth`.

    Returns:
      (B, input_size, input_size, out_channels) float32: the noise, then the
      raw values of the variance. With `taps` a pair of it and {name:
      activation}, (B, grid, grid, hidden_size) each.

    Raises:
      ValueError: options that contradict each other, or arguments that do
        not fit them.
    """
    self.check_options()
    self._check_inputs(x, y)
    h = convolution.Conv(
      self.hidden_size,
      self.patch_size,
      self.patch_size,
      padding=0,
      dtype=self.dtype,
      kernel_init=_patch_init,
      bias_init=nn.initializers.zeros,
      name='x_embedder_proj',
    )(x)
    positions = embeddings.sincos_table(self.hidden_size, self.grid)
    h = h + positions.astype(self.dtype)
    self.sow('intermediates', 'tokens', h)
    cond = self._embed_level(t)
    if y is not None:
      cond = cond + self._embed_label(y, train)
    self.sow('intermediates', 'cond', cond)
    found = {'block0': h}
    h = self._walk(h, cond, found if taps else None)
    h = nn.silu(norms.LayerNorm(1e-6, affine=False, name='final_norm')(h))
    h = linear.Linear(
      self.patch_size**2 * self.out_channels,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.zeros,
      name='final_layer_linear',
    )(h)
    out = resampling.depth_to_space(h, self.patch_size)
    return (out, taps_lib.pick(found, taps)) if taps else out

  def _embed_level(self, t: jax.Array) -> jax.Array:
    """Returns the embedding of noise levels (B,), (B, hidden_size)."""
    emb = embeddings.timestep_embedding(t, FREQUENCIES)
    for name in ('t_embedder_mlp_0', 't_embedder_mlp_2'):
      if name.endswith('2'):
        emb = nn.silu(emb)
      emb = linear.Linear(
        self.hidden_size,
        kernel_init=nn.initializers.normal(0.02),
        bias_init=nn.initializers.zeros,
        name=name,
      )(emb)
    return emb

  def _embed_label(self, y: jax.Array, train: bool) -> jax.Array:
    """Returns the embedding of class ids (B,), (B, hidden_size)."""
    if train and self.class_dropout_prob > 0:
      key = self.make_rng('dropout')
      drop = jax.random.bernoulli(key, self.class_dropout_prob, y.shape)
      y = jnp.where(drop, self.num_classes, y)
    return nn.Embed(
      self.label_rows,
      self.hidden_size,
      embedding_init=nn.initializers.normal(0.02),
      name='y_embedder',
    )(y)

  def _walk(
    self,
    h: jax.Array,
    cond: jax.Array,
    found: dict[str, jax.Array] | None = None,
  ) -> jax.Array:
    """Maps (B, grid, grid, hidden_size) through all blocks.

    Args:
      h: the tokens.
      cond: the embedding of noise level and class.
      found: filled with what comes out of every block; None for nothing.
    """
    module = tmsa.DiffiTBlock
    if self.remat:  # within a scan nothing could undo it
      module = nn.remat(
        module,
        prevent_cse=not self.scan,
        policy=REMAT_KEEPS[self.remat_keeps],
      )
    block = functools.partial(
      module,
      heads=self.num_heads,
      window=self.grid,
      mlp_ratio=self.mlp_ratio,
      time_token=self.time_token,
      dtype=self.dtype,
      attention=self.attention,
    )
    if not self.scan:
      for i in range(self.depth):
        h = block(name=f'{BLOCKS}_{i}')(h, cond)
        if found is not None:
          found[f'block{i + 1}'] = h
      return h

    def step(block, h, cond):
      h = block(h, cond)
      return h, None if found is None else h

    scanned = nn.scan(
      step,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=self.depth,
    )
    h, after = scanned(block(name=BLOCKS), h, cond)
    if found is not None:
      found.update({f'block{i + 1}': after[i] for i in range(self.depth)})
    return h


# Xavier's limit for the kernel (p, p, C, D) as one matrix (p * p * C, D).
_patch_init = nn.initializers.xavier_uniform(in_axis=(0, 1, 2), out_axis=3)
