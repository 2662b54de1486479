"""Embeddings of noise levels, grid positions and coordinates."""

import functools

from einops import rearrange
from einops import repeat
import jax
import jax.numpy as jnp
import numpy as np


def timestep_embedding(
  t: jax.Array, dim: int, endpoint: bool = False
) -> jax.Array:
  """Returns cosines, then sines, of t at geometrically falling frequencies.

  CompVis/latent-diffusion: ldm/modules/diffusionmodules/util.py. Maps (B,) to
  (B, dim) float32. Frequency i is 10000 ** (-i / (dim // 2)), with `endpoint`
  10000 ** (-i / (dim // 2 - 1)) (NVlabs/edm: training/networks.py,
  PositionalEmbedding); an odd dim ends in a zero.
  """
  half = dim // 2
  steps = max(half - endpoint, 1)
  frequencies = np.exp(-np.log(10000.0) * np.arange(half) / steps)
  angles = t.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)
  embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
  return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def random_fourier_features(
  t: jax.Array,
  dim: int,
  scale: float = 16.0,
  frequencies: jax.Array | None = None,
) -> jax.Array:
  """Returns cosines, then sines, of t at fixed random frequencies.

  The embedding of NCSN++ (arXiv:2011.13456; NVlabs/edm: training/networks.py,
  FourierEmbedding). Maps (B,) to (B, dim) float32, dim even.

  Args:
    t: (B,) numbers.
    dim: the number of channels.
    scale: the standard deviation of the frequencies, in periods a unit of t.
    frequencies: (dim / 2,) in these units; None for those of a fixed seed.
  """
  if frequencies is None:
    random = np.random.RandomState(0).standard_normal(dim // 2)
    frequencies = jnp.asarray((scale * random).astype(np.float32))
  angles = t.astype(jnp.float32)[:, None] * (2 * np.pi * frequencies)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


@functools.cache
def sincos_table(
  dim: int, grid: int, extent: float | None = None
) -> np.ndarray:
  """Returns the fixed position embedding of a square grid.

  The two-dimensional table of MAE and DiT (facebookresearch/DiT: models.py),
  (grid, grid, dim) float32: the first half of a token's channels encodes its
  column, the second its row, each by sines and then cosines.

  Args:
    dim: channels, a multiple of 4, else ValueError.
    extent: length of a side, in which the centres of its cells are measured,
      so that a place has the same code in every grid; None numbers the cells
      from 0, as in the reference.
  """
  if dim % 4:
    raise ValueError(
      f'a table of positions needs a multiple of 4 channels, got {dim}.'
    )
  frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
  places = np.arange(grid, dtype=float)
  if extent is not None:
    places = (places + 0.5) / grid * extent
  angles = places[:, None] * frequencies
  place = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  column = repeat(place, 'x c -> y x c', y=grid)
  row = repeat(place, 'y c -> y x c', x=grid)
  return np.concatenate([column, row], axis=-1).astype(np.float32)


def grid_centres(height: int, width: int) -> jax.Array:
  """Returns x, y in (0, 1) of the cells of a grid, (height * width, 2)."""
  y, x = ((jnp.arange(n) + 0.5) / n for n in (height, width))
  y, x = jnp.meshgrid(y, x, indexing='ij')
  return jnp.stack([x.ravel(), y.ravel()], axis=-1)


def fourier_features(x: jax.Array, num_frequencies: int) -> jax.Array:
  """Maps x (..., D) to sines and cosines of pi x, 2 pi x, 4 pi x ... (NeRF).

  arXiv:2003.08934, equation 4. x lies in [0, 1]; with F = num_frequencies
  octaves the result is (..., 2 * F * D) float32.
  """
  octaves = np.pi * 2.0 ** np.arange(num_frequencies)
  angles = x.astype(jnp.float32)[..., None] * octaves.astype(np.float32)
  features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return rearrange(features, '... d f -> ... (d f)')
