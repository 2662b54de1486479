"""Forward process and losses of Gaussian diffusion on a discrete chain."""

import jax
import jax.numpy as jnp


LOSSES = ('l1', 'l2')
PARAMETERIZATIONS = ('eps', 'x0')


def per_example(values: jax.Array, like: jax.Array) -> jax.Array:
  """Reshapes (B,) so that it broadcasts over (B, ...)."""
  return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def q_sample(
  x0: jax.Array, eps: jax.Array, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
  """Returns the noisy state alpha * x0 + sigma * eps (DDPM eq. 4).

  Args:
    x0: (B, H, W, C) clean.
    eps: (B, H, W, C) standard normal.
    alpha: (B,) or scalar.
    sigma: (B,) or scalar.
  """
  return per_example(alpha, x0) * x0 + per_example(sigma, x0) * eps


def mix_noise(x: jax.Array, eps: jax.Array, ratio: float) -> jax.Array:
  """Returns Frido's noise augmentation of a known scale, (1-r) x + r eps."""
  return (1.0 - ratio) * x + ratio * eps


def error(prediction: jax.Array, target: jax.Array, kind: str) -> jax.Array:
  """Returns the per-example mean error, (B,) float32.

  Args:
    prediction: (B, ...).
    target: (B, ...).
    kind: 'l1' or 'l2'.

  Raises:
    ValueError: unknown kind.
  """
  if kind not in LOSSES:
    raise ValueError(f'loss type {kind!r} is not one of {LOSSES}')
  difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
  if kind == 'l1':
    difference = jnp.abs(difference)
  else:
    difference = jnp.square(difference)
  return jnp.mean(difference, axis=tuple(range(1, difference.ndim)))
