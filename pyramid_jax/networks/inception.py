"""Inception-v3 of 2015, the network behind FID, with its input resized in.

The graph `classify_image_graph_def.pb` as mseitzer/pytorch-fid:
src/pytorch_fid/inception.py has it. It differs from later Inception-v3s: its
averages leave padding out, the last block takes a maximum, and there are 1008
classes.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import flax.struct
import jax
from jax import lax
import jax.numpy as jnp

from pyramid_jax.networks.layers import options
from pyramid_jax.networks.layers import resampling


SIDE = 299  # pixels of the input
SMALLEST_SIDE = 75  # With it, every map still has a pixel.
CLASSES = 1008
FEATURES = 2048
SPATIAL_CHANNELS = 7  # The channels of the 192 that sFID takes.

_EPS = 1e-3
# Convolutions in less than float32 would change FID.
_PRECISION = lax.Precision.HIGHEST

# Fields of a `ConvNorm` in their order.
Conv = tuple[int, ...]
# Convolutions in turn; two in one place are concatenated. They are named
# branch_1, branch_2a, branch_2b ..., a single one as the branch is.
Branches = Mapping[str, Sequence[Conv | tuple[Conv, Conv]]]

# (name, convolution), or a maximum over 3 x 3 at stride 2.
STEM: tuple[tuple[str, Conv] | str, ...] = (
  ('Conv2d_1a_3x3', (32, 3, 3, 2)),
  ('Conv2d_2a_3x3', (32, 3, 3, 1, False)),
  ('Conv2d_2b_3x3', (64, 3, 3)),
  'max',
  ('Conv2d_3b_1x1', (80,)),
  ('Conv2d_4a_3x3', (192, 3, 3, 1, False)),
  'max',
)


def _block_a(pool_features: int) -> Branches:
  return {
    'branch1x1': [(64,)],
    'branch5x5': [(48,), (64, 5, 5)],
    'branch3x3dbl': [(64,), (96, 3, 3), (96, 3, 3)],
    'branch_pool': [(pool_features,)],
  }


def _block_c(inner: int) -> Branches:
  row, column = (inner, 1, 7), (inner, 7, 1)
  return {
    'branch1x1': [(192,)],
    'branch7x7': [(inner,), row, (192, 7, 1)],
    'branch7x7dbl': [(inner,), column, row, column, (192, 1, 7)],
    'branch_pool': [(192,)],
  }


_BLOCK_B: Branches = {
  'branch3x3': [(384, 3, 3, 2)],
  'branch3x3dbl': [(64,), (96, 3, 3), (96, 3, 3, 2)],
}
_BLOCK_D: Branches = {
  'branch3x3': [(192,), (320, 3, 3, 2)],
  'branch7x7x3': [(192,), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)],
}
_BLOCK_E: Branches = {
  'branch1x1': [(320,)],
  'branch3x3': [(384,), ((384, 1, 3), (384, 3, 1))],
  'branch3x3dbl': [(448,), (384, 3, 3), ((384, 1, 3), (384, 3, 1))],
  'branch_pool': [(192,)],
}

# (name, branches, what 'branch_pool' pools by). 'average' and 'max' are 3 x 3
# at stride 1, 'halve' is a branch of its own, a maximum at stride 2.
BLOCKS: tuple[tuple[str, Branches, str], ...] = (
  ('Mixed_5b', _block_a(32), 'average'),
  ('Mixed_5c', _block_a(64), 'average'),
  ('Mixed_5d', _block_a(64), 'average'),
  ('Mixed_6a', _BLOCK_B, 'halve'),
  ('Mixed_6b', _block_c(128), 'average'),
  ('Mixed_6c', _block_c(160), 'average'),
  ('Mixed_6d', _block_c(160), 'average'),
  ('Mixed_6e', _block_c(192), 'average'),
  ('Mixed_7a', _BLOCK_D, 'halve'),
  ('Mixed_7b', _BLOCK_E, 'average'),
  ('Mixed_7c', _BLOCK_E, 'max'),
)
# What the graph calls mixed_6: its blocks count from 0, at Mixed_5b.
SPATIAL_BLOCK = 'Mixed_6d'


@flax.struct.dataclass
class Outputs:
  """What the metrics read."""

  pool: jax.Array  # (B, 2048) averages of the last maps: FID
  # (B, 2023) seven channels of 17 x 17 positions, position by position: sFID.
  spatial: jax.Array
  logits: jax.Array  # (B, 1008) of the classes
  # (B, 1008) without the last layer's bias: inception score.
  logits_unbiased: jax.Array

  @property
  def probabilities(self) -> jax.Array:
    """(B, 1008) of the classes."""
    return jax.nn.softmax(self.logits)


class ConvNorm(nn.Module):
  """A convolution without bias, a batch norm and a ReLU."""

  features: int
  height: int = 1  # The height of the kernel.
  width: int = 1  # The width of the kernel.
  strides: int = 1  # 2 goes without padding
  pad: bool = True  # whether stride 1 keeps the size

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H', W', features)."""
    padded = self.pad and self.strides == 1
    kernel = (self.height, self.width)
    x = nn.Conv(
      self.features,
      kernel,
      self.strides,
      [(k // 2, k // 2) if padded else (0, 0) for k in kernel],
      use_bias=False,
      precision=_PRECISION,
      name='conv',
    )(x)
    x = nn.BatchNorm(use_running_average=True, epsilon=_EPS, name='bn')(x)
    return nn.relu(x)


class Mixed(nn.Module):
  """Parallel branches, concatenated in their order."""

  branches: Branches
  pool: str  # see `BLOCKS`
  divisor: int = 1  # Divides all channels.

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps (B, H, W, C) to the block's result and that of its first branch."""
    results = []
    for branch, steps in self.branches.items():
      h = _pooled(x, self.pool) if branch == 'branch_pool' else x
      for i, step in enumerate(steps, 1):
        name = f'{branch}_{i}' if len(steps) > 1 else branch
        if isinstance(step[0], int):
          h = _conv(name, step, self.divisor)(h)
        else:
          pair = zip('ab', step, strict=True)
          both = [_conv(name + c, s, self.divisor)(h) for c, s in pair]
          h = jnp.concatenate(both, axis=-1)
      results.append(h)
    if self.pool == 'halve':
      results.append(nn.max_pool(x, (3, 3), (2, 2)))
    return jnp.concatenate(results, axis=-1), results[0]


def _conv(name: str, step: Any, divisor: int) -> ConvNorm:
  features, *fields = step
  return ConvNorm(features // divisor, *fields, name=name)


def _pooled(x: jax.Array, kind: str) -> jax.Array:
  """Pools 3 x 3 at stride 1; an average counts the cells inside only."""
  padding = ((1, 1), (1, 1))
  if kind == 'max':
    return nn.max_pool(x, (3, 3), (1, 1), padding)
  return nn.avg_pool(x, (3, 3), (1, 1), padding, count_include_pad=False)


class InceptionV3(nn.Module):
  """The network, in evaluation mode, float32."""

  divisor: int = 1  # Divides channels but classes, for tests.

  @nn.compact
  def __call__(self, x: jax.Array) -> Outputs:
    """Maps (B, H, W, 3) in [-1, 1], sides of at least 75 px, to `Outputs`."""
    options.check_image('Inception', x, SMALLEST_SIDE)
    for step in STEM:
      if isinstance(step, str):
        x = nn.max_pool(x, (3, 3), (2, 2))
      else:
        x = _conv(*step, self.divisor)(x)
    for name, branches, pool in BLOCKS:
      x, first = Mixed(branches, pool, self.divisor, name=name)(x)
      if name == SPATIAL_BLOCK:
        spatial = first[..., :SPATIAL_CHANNELS]
    pooled = x.mean((1, 2))
    unbiased, bias = Classifier(name='fc')(pooled)
    return Outputs(
      pool=pooled,
      spatial=spatial.reshape(len(spatial), -1),
      logits=unbiased + bias,
      logits_unbiased=unbiased,
    )


class Classifier(nn.Module):
  """The last layer, its bias apart."""

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps (B, C) to (B, 1008) without bias, and the bias (1008,)."""
    shape = (x.shape[-1], CLASSES)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (CLASSES,))
    return jnp.matmul(x, kernel, precision=_PRECISION), bias


def preprocess(images: jax.Array) -> jax.Array:
  """Maps uint8 images (B, H, W, 3) to (B, 299, 299, 3) in [-1, 1).

  As the graph does it: bilinear without antialiasing, output pixel i at
  i * H / 299 (TensorFlow 1), then (x - 128) / 128.
  """
  x = resampling.from_corner(images.astype(jnp.float32), (SIDE, SIDE))
  return (x - 128) / 128
