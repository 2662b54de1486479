"""Radiance as the numbers of an image, and back: sRGB, and the mu-law.

Radiance is linear light, 1 is the white of an image of low dynamic range. The
mu-law with mu = 5000 is the curve in which images of high dynamic range are
compared (Kalantari and Ramamoorthi 2017); how far it reaches is our own.
"""

from typing import Any

import jax.numpy as jnp


MU = 5000.0
MOST = 64.0  # the radiance of 1 on the curve; more is clipped


def encoded(radiance: Any, xp: Any = jnp) -> Any:
  """Returns values in [0, 1] of radiance (...); `xp` is jax.numpy or NumPy."""
  part = xp.clip(radiance / MOST, 0.0, 1.0)
  return xp.log1p(MU * part) / xp.log1p(MU)


def decoded(values: Any, xp: Any = jnp) -> Any:
  """Returns the radiance of values in [0, 1], the inverse of `encoded`."""
  return MOST * xp.expm1(values * xp.log1p(MU)) / MU


def to_srgb(radiance: Any, xp: Any = jnp) -> Any:
  """Returns values of sRGB in [0, 1] (IEC 61966-2-1); more light is clipped."""
  x = xp.clip(radiance, 0.0, 1.0)
  curved = 1.055 * xp.maximum(x, 1e-6) ** (1 / 2.4) - 0.055
  return xp.where(x <= 0.0031308, 12.92 * x, curved)


def from_srgb(values: Any, xp: Any = jnp) -> Any:
  """Returns the radiance of values of sRGB, the inverse of `to_srgb`."""
  curved = ((xp.maximum(values, 0.0) + 0.055) / 1.055) ** 2.4
  return xp.where(values <= 0.04045, values / 12.92, curved)
