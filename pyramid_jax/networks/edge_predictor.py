"""The latent edge predictor: from a denoiser's activations to an edge map.

arXiv:2211.13752. At every place of a latent, a small perceptron reads the
activations that a frozen denoiser has there and predicts the encoded edge map.
"""

from collections.abc import Sequence

from einops import rearrange
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import options
from pyramid_jax.networks.layers import resampling


# The level of the noise; the noise itself in training, and the initial noise
# in sampling; the noise that the denoiser predicts.
NOISE_INPUTS = ('scalar', 'map', 'map_pred')
FEATURE_NORMS = ('layer', 'none')
HEADS = ('pixel', 'token')
OCTAVES = 10


def encode_level(level: jax.Array, octaves: int) -> jax.Array:
  """Encodes the time of the noise, (B,) in [0, 1], by F octaves.

  (B, 1 + 2 F): level, sines, cosines of 2 pi level 2^-l, l = 0..F-1.
  """
  level = resampling.wide(level)
  angles = level[:, None] * _frequencies(octaves, level.dtype)
  return jnp.concatenate(
    [level[:, None], jnp.sin(angles), jnp.cos(angles)], axis=-1
  )


def encode_noise(noise: jax.Array, octaves: int) -> jax.Array:
  """Encodes a map of noise, (B, H, W, C) as in the state, by F octaves.

  (B, H, W, C (1 + F)): noise, then sin(2 pi noise 2^-l), l = 0..F-1, all
  channels of an octave together.
  """
  noise = resampling.wide(noise)
  angles = noise[..., None, :] * _frequencies(octaves, noise.dtype)[:, None]
  sines = rearrange(jnp.sin(angles), '... f c -> ... (f c)')
  return jnp.concatenate([noise, sines], axis=-1)


def _frequencies(octaves: int, dtype: jnp.dtype) -> np.ndarray:
  return (2 * np.pi * 2.0 ** -np.arange(octaves)).astype(dtype)


class EdgePredictor(nn.Module):
  """Predicts encoded edges place by place.

  Resizing an activation and multiplying it by its part of the first kernel
  commute: each is multiplied at its own size, resized with `hidden[0]`
  channels and added to the others, so the map of all is never built.
  """

  # Channels of the edge map of each stage (scale) that shares the network. Each
  # has a head and norms of its own, and adds a learned vector to the first
  # layer.
  out_channels: Sequence[int] = (4,)
  # Widths of the hidden layers, each with ReLU and batch norm.
  hidden: Sequence[int] = (512, 256, 128, 64)
  octaves: int = OCTAVES  # The octaves that encode the noise level.
  noise_input: str = 'scalar'  # one of `NOISE_INPUTS`
  feature_norm: str = 'layer'  # 'layer' normalises activations over channels
  # The side of the square of places that one token of the denoiser stands for,
  # of each stage; () for denoisers without tokens.
  patches: Sequence[int] = ()
  # 'pixel' evaluates every place, with a learned vector of its place in the
  # patch; 'token' predicts a whole patch by one evaluation.
  head: str = 'pixel'
  dtype: jnp.dtype = jnp.float32  # wider inputs keep their element type

  def check_options(self) -> None:
    """Raises ValueError if attributes are not allowed."""
    options.check(
      self, noise_input=NOISE_INPUTS, feature_norm=FEATURE_NORMS, head=HEADS
    )
    sizes = (*self.hidden, *self.out_channels, *self.patches)
    fits = len(self.patches) in (0, len(self.out_channels))
    if not self.hidden or min(sizes) < 1 or not fits:
      raise ValueError(
        f'hidden = {tuple(self.hidden)}, out_channels ='
        f' {tuple(self.out_channels)} and patches = {tuple(self.patches)} must'
        ' be positive, patches of as many stages, with a hidden layer.'
      )

  @nn.compact
  def __call__(
    self,
    features: Sequence[jax.Array],
    noise: jax.Array,
    size: tuple[int, int],
    *,
    stage: int = 0,
    train: bool = False,
  ) -> jax.Array:
    """Returns the predicted edge map.

    Args:
      features: activations (B, H_k, W_k, C_k), always the same in this order.
      noise: (B,) or (1,) the time of the noise in [0, 1], or for the other
        `NOISE_INPUTS` the noise of the state, (B, H, W, C).
      size: height and width of the edge map.
      train: whether batch norms take the statistics of this batch, and renew
        the running ones where the collection 'batch_stats' is mutable.

    Returns:
      (B, *size, out_channels[stage]), float32 or wider.
    """
    self.check_options()
    patch = self.patches[stage] if self.patches else 1
    if size[0] % patch or size[1] % patch:
      raise ValueError(
        f'an edge map of {size[0]} x {size[1]} must have sides that are'
        f' multiples of patches[{stage}] = {patch}.'
      )
    cell = self._cell(stage)
    grid = (size[0] // cell, size[1] // cell)
    h = self._first_layer(features, noise, grid, stage)
    fields = affine.zero_bias(nn.initializers.he_uniform())
    layers = [
      affine.Linear(width, dtype=h.dtype, name=f'fc{i}', **fields)
      for i, width in enumerate(self.hidden[1:], 1)
    ]
    if self.is_initializing():  # the parameters of all stages are made
      for other in range(len(self.out_channels)):
        if other != stage:
          self._rest(layers, h, other, train)
    h = self._rest(layers, h, stage, train)
    return resampling.depth_to_space(h, cell)

  def _cell(self, stage: int) -> int:
    """Returns the side of the square that one evaluation predicts."""
    return self.patches[stage] if self.patches and self.head == 'token' else 1

  def _first_layer(
    self,
    features: Sequence[jax.Array],
    noise: jax.Array,
    grid: tuple[int, int],
    stage: int,
  ) -> jax.Array:
    wider = [x.dtype for x in features if x.dtype.itemsize > 4]
    dtype = jnp.result_type(self.dtype, *wider)
    if self.noise_input == 'scalar':
      level = encode_level(noise, self.octaves)[:, None, None]
    else:
      level = encode_noise(resampling.bilinear(noise, grid), self.octaves)
    # All parts are drawn as one kernel over all inputs.
    total = sum(feature.shape[-1] for feature in features) + level.shape[-1]
    kernel_init = affine.symmetric_uniform((6 / total) ** 0.5)
    part = lambda name: affine.Linear(
      self.hidden[0],
      use_bias=False,
      dtype=dtype,
      kernel_init=kernel_init,
      name=name,
    )
    h = part('fc0_level')(level)
    for k, feature in enumerate(features):
      if self.feature_norm == 'layer':
        feature = norms.LayerNorm(dtype=dtype, affine=False)(feature)
      h = h + resampling.bilinear(part(f'fc0_tap{k}')(feature), grid)
    width = (self.hidden[0],)
    h = h + self.param('fc0_bias', nn.initializers.zeros, width)
    if len(self.out_channels) > 1:
      shape = (len(self.out_channels), *width)
      h = h + self.param('fc0_stage', kernel_init, shape)[stage]
    patches = self.patches if self.head == 'pixel' else ()
    for other, patch in enumerate(patches):
      place = self.param(
        f'fc0_place_{other}', kernel_init, (patch, patch, *width)
      )
      if other == stage:
        h = h + jnp.tile(place, (grid[0] // patch, grid[1] // patch, 1))
    return h

  def _rest(
    self, layers: Sequence[affine.Linear], h: jax.Array, stage: int, train: bool
  ) -> jax.Array:
    # Stages differ in their statistics, so each has norms of its own.
    own = f'_{stage}' if len(self.out_channels) > 1 else ''
    dtype = h.dtype
    for i in range(len(self.hidden)):
      h = layers[i - 1](h) if i else h
      norm = norms.BatchNorm(dtype, name=f'norm{i}{own}')
      h = norm(nn.relu(h), train)
    channels = self._cell(stage) ** 2 * self.out_channels[stage]
    return affine.Linear(
      channels,
      dtype=jnp.promote_types(dtype, jnp.float32),
      name=f'out{own}',
      **affine.zero_bias(affine.torch_kernel),
    )(h)
