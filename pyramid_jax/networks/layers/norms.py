"""Normalisations, computed in float32 (or wider) whatever comes in."""

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import caching
from pyramid_jax.networks.layers import parameters
from pyramid_jax.networks.layers import resampling


STATISTICS = 'batch_stats'  # the collection of running statistics
_SMALLEST_GROUP = 4  # channels


class GroupNorm(nn.Module):
  """Group normalisation over all positions (arXiv:1803.08494).

  Groups are folded on (B, C) sums, not on the map: a reshape would put a tiny
  axis last, which accelerators pad.
  """

  eps: float
  num_groups: int = 32
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises (B, ..., C), C a multiple of num_groups."""
    channels = x.shape[-1]
    if channels % self.num_groups:
      raise ValueError(
        f'{channels} channels cannot be split into num_groups = '
        f'{self.num_groups} groups; use a multiple of it.'
      )
    scale = parameters.get(self, 'scale', nn.initializers.ones, (channels,))
    bias = parameters.get(self, 'bias', nn.initializers.zeros, (channels,))
    y = _group_norm_once(x, scale, bias, self.num_groups, self.eps)
    return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array, num_groups: int, eps: float
) -> jax.Array:
  """Returns the normalised (B, ..., C) array in float32 or wider.

  scale and bias are (C,). The gradient is written out: it keeps x, in its own
  element type, and small arrays, and takes one pass for all sums, as the
  forward direction does. There is no forward-mode derivative.
  """
  return _group_norm_forward(x, scale, bias, num_groups, eps)[0]


def _group_norm_forward(x, scale, bias, num_groups, eps):
  mean, inverse_std = _group_statistics(x, num_groups, eps)
  spread = functools.partial(_over_positions, x)
  y = resampling.wide(x) - spread(mean)
  y = y * spread(inverse_std * scale) + bias
  return y, (x, scale, mean, inverse_std)


def _group_norm_backward(num_groups, eps, residuals, dy):
  del eps
  x, scale, mean, inverse_std = residuals
  positions = tuple(range(1, x.ndim - 1))
  count = x.size // (x.shape[0] * x.shape[-1])
  spread = functools.partial(_over_positions, x)

  normalised = (resampling.wide(x) - spread(mean)) * spread(inverse_std)
  sums = dy.sum(positions)
  products = (dy * normalised).sum(positions)
  along_one = _group_mean(sums * scale, num_groups) / count
  along_x = _group_mean(products * scale, num_groups) / count
  dx = dy * scale - spread(along_one) - normalised * spread(along_x)
  dx = (dx * spread(inverse_std)).astype(x.dtype)
  return dx, products.sum(0), sums.sum(0)


group_norm.defvjp(_group_norm_forward, _group_norm_backward)
# The same operations, traced once for each shape instead of in each layer.
_group_norm_once = jax.jit(group_norm, static_argnums=(3, 4), inline=True)


def _group_statistics(
  x: jax.Array, num_groups: int, eps: float
) -> tuple[jax.Array, jax.Array]:
  """Returns mean and inverse standard deviation, (B, C), equal in a group."""
  # Both sums take one pass over the map, about a shift close to the mean: plain
  # E[x^2] - E[x]^2 loses digits. The shift is the group's mean over the first
  # 1 / H of the positions, so at most H units of the last place are lost.
  # The slice is taken from x itself: of a wider copy, XLA:TPU writes all of it.
  positions = tuple(range(1, x.ndim - 1))
  first = resampling.wide(x[:, :1])
  shift = _group_mean(first.mean(positions), num_groups)
  centred = resampling.wide(x) - _over_positions(x, shift)
  mean = _group_mean(centred.mean(positions), num_groups)
  square = _group_mean((centred**2).mean(positions), num_groups)
  variance = jnp.maximum(square - mean**2, 0)
  return shift + mean, lax.rsqrt(variance + eps)


def _group_mean(y: jax.Array, num_groups: int) -> jax.Array:
  """Replaces the channels of (B, C) by the mean of their group."""
  b, c = y.shape
  y = y.reshape(b, num_groups, c // num_groups)
  return jnp.broadcast_to(y.mean(-1, keepdims=True), y.shape).reshape(b, c)


def _over_positions(x: jax.Array, y: jax.Array) -> jax.Array:
  """Gives y (B, C) the axes of x (B, ..., C)."""
  return jnp.expand_dims(y, tuple(range(1, x.ndim - 1)))


def small_groups(
  x: jax.Array, groups: int, eps: float, dtype: jnp.dtype, name: str
) -> jax.Array:
  """Applies a group norm of at most `groups` groups, of 4 channels or more.

  NVlabs/edm: training/networks.py, GroupNorm. The norm is part of the module in
  whose compact method this is called.
  """
  count = max(1, min(groups, x.shape[-1] // _SMALLEST_GROUP))
  return GroupNorm(eps, count, dtype, name=name)(x)


class LayerNorm(nn.Module):
  """Layer normalisation over the last axis (arXiv:1607.06450)."""

  eps: float = 1e-5
  dtype: jnp.dtype = jnp.float32
  affine: bool = True  # whether a learned scale and shift follow
  # Whether the root mean square divides, and nothing is subtracted or added.
  is_rms: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises (..., C)."""
    channels = x.shape[-1]
    x = resampling.wide(x)
    x = x if self.is_rms else x - x.mean(-1, keepdims=True)
    variance = (x**2).mean(-1, keepdims=True)
    x = x * lax.rsqrt(variance + self.eps)
    if self.affine:
      x = x * parameters.get(self, 'scale', nn.initializers.ones, (channels,))
    if self.affine and not self.is_rms:
      x = x + parameters.get(self, 'bias', nn.initializers.zeros, (channels,))
    return x.astype(self.dtype)


# arXiv:1910.07467.
RMSNorm = functools.partial(LayerNorm, eps=1e-6, is_rms=True)


class BatchNorm(nn.Module):
  """Batch normalisation with running statistics as torch.nn.BatchNorm2d has.

  The running variance is renewed with the unbiased one, the batch itself is
  normalised with the biased one. Under `jit` the statistics are those of the
  global batch.
  """

  dtype: jnp.dtype = jnp.float32
  scale_init: nn.initializers.Initializer = nn.initializers.ones
  eps: float = 1e-5
  momentum: float = 0.1  # weight of the newest batch in the running statistics

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalises (B, H, W, C).

    `train` takes the statistics of this batch, and renews the running ones
    where the collection `STATISTICS` is mutable.
    """
    features = x.shape[-1:]
    scale = parameters.get(self, 'scale', self.scale_init, features)
    bias = parameters.get(self, 'bias', nn.initializers.zeros, features)
    running_mean = self.variable(STATISTICS, 'mean', jnp.zeros, features)
    running_var = self.variable(STATISTICS, 'var', jnp.ones, features)

    x = resampling.wide(x)
    if train:
      mean = x.mean((0, 1, 2))
      var = ((x - mean) ** 2).mean((0, 1, 2))
    else:
      mean, var = running_mean.value, running_var.value
    renew = self.is_mutable_collection(STATISTICS)
    if train and renew and not self.is_initializing():
      count = x.size // x.shape[-1]
      unbiased = var * (count / max(count - 1, 1))
      # No `+=`: it would write into the caller's arrays if they are NumPy's.
      old_mean, old_var = running_mean.value, running_var.value
      running_mean.value = old_mean + self.momentum * (mean - old_mean)
      running_var.value = old_var + self.momentum * (unbiased - old_var)
    x = (x - mean) * (lax.rsqrt(var + self.eps) * scale) + bias
    return x.astype(self.dtype)


class GatedNorm(nn.Module):
  """Group norm whose scale and shift are computed from a map (SPADE).

  norm(x) * (1 + gamma(cond)) + beta(cond) as in arXiv:1903.07291, section 3.1,
  with the group norm's own affine part kept. Gates go through `caching.cached`.
  """

  eps: float
  num_groups: int = 32
  hidden: int = 128  # channels between the map and its gates
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, cond: jax.Array | None = None) -> jax.Array:
    """Maps x (B, H, W, C) to the same shape.

    `cond` (B, H', W', D) is resized by nearest neighbours; None gives the plain
    norm.
    """
    fields = (self.eps, self.num_groups, self.dtype)
    norm = GroupNorm(*fields, name='param_free_norm')(x)
    if cond is None:
      return norm
    make = lambda: self._gate(cond, x.shape)
    gamma, beta = caching.cached(self, 'gate', make)
    return norm * (1 + gamma) + beta

  def _gate(
    self, cond: jax.Array, shape: tuple[int, ...]
  ) -> tuple[jax.Array, jax.Array]:
    _, height, width, channels = shape
    cond = resampling.nearest(cond, (height, width))
    conv = functools.partial(affine.Conv, dtype=self.dtype)
    hidden = nn.relu(conv(self.hidden, name='mlp_shared_0')(cond))
    gamma = conv(channels, name='mlp_gamma')(hidden)
    return gamma, conv(channels, name='mlp_beta')(hidden)


class MaybeGated(nn.Module, kw_only=True):
  """A block whose group norms may be gated by the coarser scales."""

  gated: bool = False  # whether norms are gated
  gate_width: int = 128  # hidden channels of a gate
  dtype: jnp.dtype = jnp.float32

  def norm(
    self, name: str, x: jax.Array, cond: jax.Array | None, eps: float = 1e-5
  ) -> jax.Array:
    """Applies the norm `name` to x (B, H, W, C), within a compact method.

    `cond` is (B, H', W', D) features of the coarser scales, or None; only
    gates read it.
    """
    if not self.gated:
      return GroupNorm(eps, dtype=self.dtype, name=name)(x)
    return GatedNorm(eps, hidden=self.gate_width, dtype=self.dtype, name=name)(
      x, cond
    )
