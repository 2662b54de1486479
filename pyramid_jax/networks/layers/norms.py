"""Normalisations, computed in float32 whatever the activations are."""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from pyramid_jax.networks.layers import caching
from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import resampling


class GroupNorm(nn.Module):
  """Group normalisation over all positions (arXiv:1803.08494).

  The map is never reshaped to (..., groups, channels / groups): that puts a
  tiny axis last, which accelerators pad. Channel sums are folded to groups on
  (B, C) arrays instead.

  Attributes:
    eps: added to the variance; 1e-5 in the U-Nets, 1e-6 in the autoencoders
      and in front of their transformers.
    num_groups: must divide the channels.
    dtype: of the result.
  """

  eps: float
  num_groups: int = 32
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises (B, ..., C).

    Raises:
      ValueError: C is not a multiple of num_groups.
    """
    channels = x.shape[-1]
    if channels % self.num_groups:
      raise ValueError(
        f'{channels} channels cannot be split into num_groups = '
        f'{self.num_groups} groups; use a multiple of it.'
      )
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    return group_norm(x, scale, bias, self.num_groups, self.eps).astype(
      self.dtype
    )


def group_norm(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  num_groups: int,
  eps: float,
) -> jax.Array:
  """Returns the normalised (B, ..., C) array in float32.

  Both sums are taken in one pass over the map, about a shift close to the
  mean: plain E[x^2] - E[x]^2 loses the digits in which PyTorch's result would
  be compared. The shift is the group's mean over the first 1 / H of the
  positions, so (shift - mean)^2 <= H * variance and at most H units of the
  last place are lost in the variance.

  Args:
    x: (B, ..., C) with at least one axis of positions.
    scale: (C,).
    bias: (C,).
    num_groups: divides C.
    eps: added to the variance.
  """
  x = x.astype(jnp.float32)
  positions = tuple(range(1, x.ndim - 1))

  def group_mean(y):  # (B, ..., C) -> (B, 1, ..., 1, C), equal within a group
    y = y.mean(positions)
    b, c = y.shape
    y = y.reshape(b, num_groups, c // num_groups).mean(-1)
    y = jnp.repeat(y, c // num_groups, -1, total_repeat_length=c)
    return jnp.expand_dims(y, positions)

  shift = lax.stop_gradient(group_mean(x[:, :1]))
  centred = x - shift
  mean = group_mean(centred)
  variance = jnp.maximum(group_mean(centred**2) - mean**2, 0)
  factor = lax.rsqrt(variance + eps) * scale
  return (centred - mean) * factor + bias


class LayerNorm(nn.Module):
  """Layer normalisation over the last axis (arXiv:1607.06450).

  Attributes:
    eps: added to the variance; PyTorch's default.
    dtype: of the result.
  """

  eps: float = 1e-5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises (..., C)."""
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    x = centred * lax.rsqrt(variance + self.eps) * scale + bias
    return x.astype(self.dtype)


class GatedNorm(nn.Module):
  """Group norm whose scale and shift are read off a map (SPADE).

  norm(x) * (1 + gamma(cond)) + beta(cond) as in arXiv:1903.07291, section
  3.1, with the group norm's own affine part kept. The gate
  does not depend on x: it goes through `caching.cached`.

  Attributes:
    eps: of the group norm.
    num_groups: of the group norm.
    hidden: channels between the map and its gates.
    dtype: of the activations.
  """

  eps: float
  num_groups: int = 32
  hidden: int = 128
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, cond: jax.Array | None = None) -> jax.Array:
    """Normalises x, gated when cond is given.

    Args:
      x: (B, H, W, C).
      cond: (B, H', W', D), resized to x by nearest neighbours; None for the
        plain norm.

    Returns:
      (B, H, W, C) in `dtype`.
    """
    norm = GroupNorm(
      self.eps, self.num_groups, self.dtype, name='param_free_norm'
    )(x)
    if cond is None:
      return norm
    gamma, beta = caching.cached(
      self, 'gate', lambda: self._gate(cond, x.shape)
    )
    return norm * (1 + gamma) + beta

  def _gate(
    self, cond: jax.Array, shape: tuple[int, ...]
  ) -> tuple[jax.Array, jax.Array]:
    _, height, width, channels = shape
    cond = resampling.nearest(cond, (height, width))
    hidden = convolution.Conv(
      self.hidden, dtype=self.dtype, name='mlp_shared_0'
    )(cond)
    hidden = nn.relu(hidden)
    gamma = convolution.Conv(channels, dtype=self.dtype, name='mlp_gamma')
    beta = convolution.Conv(channels, dtype=self.dtype, name='mlp_beta')
    return gamma(hidden), beta(hidden)
