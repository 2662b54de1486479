"""Embeddings of noise levels, grid positions and coordinates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def timestep_embedding(
  t: jax.Array, dim: int, max_period: float = 10000.0, endpoint: bool = False
) -> jax.Array:
  """Returns cosines, then sines, of t at geometrically falling frequencies.

  As in the reference U-Nets (CompVis/latent-diffusion:
  ldm/modules/diffusionmodules/util.py): frequency i is
  max_period ** (-i / (dim // 2)); an odd dim ends in a zero.

  Args:
    t: (B,) noise levels, integer or fractional.
    dim: size of the embedding.
    max_period: the longest period over 2 pi.
    endpoint: whether that period is among them, as in NVlabs/edm:
      training/networks.py, PositionalEmbedding: the divisor of i is then
      dim // 2 - 1.

  Returns:
    (B, dim) float32.
  """
  half = dim // 2
  steps = max(half - endpoint, 1)
  frequencies = np.exp(-np.log(max_period) * np.arange(half) / steps)
  angles = t.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)
  embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
  return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def random_fourier_features(
  t: jax.Array, dim: int, scale: float = 16.0
) -> jax.Array:
  """Returns cosines, then sines, of t at fixed random frequencies.

  The embedding of NCSN++ (arXiv:2011.13456; NVlabs/edm: training/networks.py,
  FourierEmbedding). The frequencies are no parameters: they are drawn from a
  fixed seed, N(0, scale^2) periods for a unit of t.

  Args:
    t: (B,) noise levels.
    dim: size of the embedding, even.
    scale: deviation of the frequencies.

  Returns:
    (B, dim) float32.
  """
  frequencies = np.random.RandomState(0).standard_normal(dim // 2)
  frequencies = (2 * np.pi * scale * frequencies).astype(np.float32)
  angles = t.astype(jnp.float32)[:, None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def grid_embedding(table: jax.Array, height: int, width: int) -> jax.Array:
  """Returns the mean of a coordinate's two table rows for every grid token.

  Token k reads rows k // height and k % height, which on square grids are its
  row and column (davidhalladay/Frido: frido/modules/attention.py).

  Args:
    table: (N, C), a row for each coordinate.
    height: of the grid, at most N.
    width: of the grid, at most N.

  Returns:
    (height * width, C).

  Raises:
    ValueError: the grid has more coordinates than the table rows.
  """
  if max(height, width) > len(table):
    raise ValueError(
      f'a {height} x {width} grid needs more position embeddings than the '
      f'{len(table)} there are.'
    )
  # (width, height): entry (i, j) is token i * height + j.
  both = table[:width, None] + table[None, :height]
  return both.reshape(width * height, -1) / 2


@functools.cache
def sincos_table(
  dim: int, grid: int, extent: float | None = None
) -> np.ndarray:
  """Returns the fixed position embedding of a square grid.

  The two-dimensional table of MAE and DiT (facebookresearch/DiT: models.py):
  the first half of a token's channels tells its column, the second its row,
  each half by sines and then cosines; computed in float64.

  Args:
    dim: channels, a multiple of 4.
    grid: side of the grid.
    extent: of the whole side, in the unit in which the centres of its cells
      are told: a place has the same code in every grid. None numbers the
      cells from 0, as in the reference.

  Returns:
    (grid, grid, dim) float32, rows first.

  Raises:
    ValueError: other channels.
  """
  if dim % 4:
    raise ValueError(
      f'a table of positions needs a multiple of 4 channels, got {dim}.'
    )
  frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
  places = np.arange(grid, dtype=np.float64)
  if extent is not None:
    places = (places + 0.5) / grid * extent
  angles = places[:, None] * frequencies
  place = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  shape = (grid, grid, dim // 2)
  column = np.broadcast_to(place[None], shape)
  row = np.broadcast_to(place[:, None], shape)
  return np.concatenate([column, row], axis=-1).astype(np.float32)


def grid_centres(height: int, width: int) -> jax.Array:
  """Returns x, y in (0, 1) of the cells of a grid, (height * width, 2)."""
  y, x = jnp.meshgrid(
    (jnp.arange(height) + 0.5) / height,
    (jnp.arange(width) + 0.5) / width,
    indexing='ij',
  )
  return jnp.stack([x.ravel(), y.ravel()], axis=-1)


def fourier_features(x: jax.Array, num_frequencies: int) -> jax.Array:
  """Returns sines and cosines of pi x, 2 pi x, 4 pi x ... of every coordinate.

  The encoding of positions of NeRF (arXiv:2003.08934, equation 4).

  Args:
    x: (..., D) coordinates in [0, 1].
    num_frequencies: octaves F.

  Returns:
    (..., 2 * F * D) float32.
  """
  octaves = np.pi * 2.0 ** np.arange(num_frequencies)
  angles = x.astype(jnp.float32)[..., None] * octaves.astype(np.float32)
  features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return features.reshape(*x.shape[:-1], -1)
