"""Inception-v3 of 2015, the network behind FID, with its input resized in.

The graph `classify_image_graph_def.pb` as mseitzer/pytorch-fid:
src/pytorch_fid/inception.py has it. It differs from later Inception-v3s: its
averages leave padding out, the last block takes a maximum, and there are 1008
classes.
"""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import flax.struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np


SIDE = 299  # pixels of the input
SMALLEST_SIDE = 75  # where every map still has a pixel
CLASSES = 1008
FEATURES = 2048
SPATIAL_CHANNELS = 7  # of the 192, kept for sFID

_EPS = 1e-3
# Convolutions in less than float32 would change FID.
_PRECISION = lax.Precision.HIGHEST


class Conv(NamedTuple):
  """A convolution without bias, a batch norm and a ReLU."""

  name: str  # of the convolution in its block
  features: int  # output channels
  height: int = 1  # of the kernel
  width: int = 1  # of the kernel
  strides: int = 1  # 2 goes without padding, 1 keeps the size (`pad`)
  pad: bool = True  # whether there is padding at stride 1


# A branch is a chain; two convolutions side by side are concatenated.
Step = Conv | tuple[Conv, Conv]
Branch = Sequence[Step]

STEM: tuple[Conv | str, ...] = (
  Conv('Conv2d_1a_3x3', 32, 3, 3, 2),
  Conv('Conv2d_2a_3x3', 32, 3, 3, pad=False),
  Conv('Conv2d_2b_3x3', 64, 3, 3),
  'max',
  Conv('Conv2d_3b_1x1', 80),
  Conv('Conv2d_4a_3x3', 192, 3, 3, pad=False),
  'max',
)


def _chain(name: str, *steps: Sequence[Any]) -> list[Step]:
  """Returns the convolutions name_1, name_2 ... with the fields of `Conv`."""
  return [Conv(f'{name}_{i}', *step) for i, step in enumerate(steps, 1)]


def _split(name: str, features: int) -> Step:
  """Returns the convolutions namea and nameb, side by side."""
  return Conv(f'{name}a', features, 1, 3), Conv(f'{name}b', features, 3, 1)


def _block_a(pool_features: int) -> list[Branch]:
  return [
    [Conv('branch1x1', 64)],
    _chain('branch5x5', (48,), (64, 5, 5)),
    _chain('branch3x3dbl', (64,), (96, 3, 3), (96, 3, 3)),
    [Conv('branch_pool', pool_features)],
  ]


def _block_b() -> list[Branch]:
  return [
    [Conv('branch3x3', 384, 3, 3, 2)],
    _chain('branch3x3dbl', (64,), (96, 3, 3), (96, 3, 3, 2)),
  ]


def _block_c(inner: int) -> list[Branch]:
  row, column = (inner, 1, 7), (inner, 7, 1)
  return [
    [Conv('branch1x1', 192)],
    _chain('branch7x7', (inner,), row, (192, 7, 1)),
    _chain('branch7x7dbl', (inner,), column, row, column, (192, 1, 7)),
    [Conv('branch_pool', 192)],
  ]


def _block_d() -> list[Branch]:
  return [
    _chain('branch3x3', (192,), (320, 3, 3, 2)),
    _chain('branch7x7x3', (192,), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)),
  ]


def _block_e() -> list[Branch]:
  return [
    [Conv('branch1x1', 320)],
    [*_chain('branch3x3', (384,)), _split('branch3x3_2', 384)],
    [
      *_chain('branch3x3dbl', (448,), (384, 3, 3)),
      _split('branch3x3dbl_3', 384),
    ],
    [Conv('branch_pool', 192)],
  ]


# (name, branches, what the last one pools by). 'average' and 'max' are 3 x 3 at
# stride 1 in front of a convolution, 'halve' is a maximum at stride 2 alone.
BLOCKS: tuple[tuple[str, list[Branch], str], ...] = (
  ('Mixed_5b', _block_a(32), 'average'),
  ('Mixed_5c', _block_a(64), 'average'),
  ('Mixed_5d', _block_a(64), 'average'),
  ('Mixed_6a', _block_b(), 'halve'),
  ('Mixed_6b', _block_c(128), 'average'),
  ('Mixed_6c', _block_c(160), 'average'),
  ('Mixed_6d', _block_c(160), 'average'),
  ('Mixed_6e', _block_c(192), 'average'),
  ('Mixed_7a', _block_d(), 'halve'),
  ('Mixed_7b', _block_e(), 'average'),
  ('Mixed_7c', _block_e(), 'max'),
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
  """One `Conv` of the tables."""

  step: Conv  # the table's entry
  features: int  # output channels, in place of the entry's

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (B, H, W, C) to (B, H', W', features)."""
    padded = self.step.pad and self.step.strides == 1
    kernel = (self.step.height, self.step.width)
    padding = [(k // 2, k // 2) if padded else (0, 0) for k in kernel]
    x = nn.Conv(
      self.features,
      kernel,
      self.step.strides,
      padding,
      use_bias=False,
      precision=_PRECISION,
      name='conv',
    )(x)
    x = nn.BatchNorm(use_running_average=True, epsilon=_EPS, name='bn')(x)
    return nn.relu(x)


class Mixed(nn.Module):
  """Parallel branches, concatenated in their order."""

  branches: Sequence[Branch]  # chains of convolutions
  pool: str  # see `BLOCKS`
  divisor: int = 1  # of all channels

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps (B, H, W, C) to the block's result and that of its first branch."""
    results = []
    for branch in self.branches:
      h = x
      first = branch[0]
      if isinstance(first, Conv) and first.name == 'branch_pool':
        h = _pooled(x, self.pool)
      for step in branch:
        h = self._step(h, step)
      results.append(h)
    if self.pool == 'halve':
      results.append(nn.max_pool(x, (3, 3), (2, 2)))
    return jnp.concatenate(results, axis=-1), results[0]

  def _step(self, x: jax.Array, step: Step) -> jax.Array:
    if not isinstance(step, Conv):
      return jnp.concatenate([self._step(x, one) for one in step], axis=-1)
    return ConvNorm(step, step.features // self.divisor, name=step.name)(x)


def _pooled(x: jax.Array, kind: str) -> jax.Array:
  """Pools 3 x 3 at stride 1; an average counts the cells inside only."""
  padding = ((1, 1), (1, 1))
  if kind == 'max':
    return nn.max_pool(x, (3, 3), (1, 1), padding)
  return nn.avg_pool(x, (3, 3), (1, 1), padding, count_include_pad=False)


class InceptionV3(nn.Module):
  """The network, in evaluation mode, float32."""

  divisor: int = 1  # of all channels but the classes, for small copies in tests

  @nn.compact
  def __call__(self, x: jax.Array) -> Outputs:
    """Maps (B, H, W, 3) in [-1, 1], sides of at least 75 px, to `Outputs`."""
    if x.ndim != 4 or x.shape[-1] != 3 or min(x.shape[1:3]) < SMALLEST_SIDE:
      raise ValueError(
        f'Inception needs (B, H, W, 3) with sides of at least {SMALLEST_SIDE}, '
        f'got {x.shape}.'
      )
    for step in STEM:
      if isinstance(step, Conv):
        features = step.features // self.divisor
        x = ConvNorm(step, features, name=step.name)(x)
      else:
        x = nn.max_pool(x, (3, 3), (2, 2))
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
  x = images.astype(jnp.float32)
  for axis in (2, 1):  # the graph's order
    x = _resize_axis(x, axis)
  return (x - 128) / 128


def _resize_axis(x: jax.Array, axis: int) -> jax.Array:
  size = x.shape[axis]
  if size == SIDE:
    return x
  place = np.arange(SIDE, dtype=np.float32) * np.float32(size / SIDE)
  low = place.astype(np.int32)
  high = np.minimum(low + 1, size - 1)
  part = np.expand_dims(place - low, [a for a in range(4) if a != axis])
  below, above = jnp.take(x, low, axis), jnp.take(x, high, axis)
  return below + (above - below) * part
