"""First stages on images larger than memory, window by window.

Group norms and attention see one window at a time, so the result is not that
of the whole image; it is that of the networks at the size they were trained
for. Split-input mode of CompVis/latent-diffusion: ldm/models/diffusion/ddpm.py.
"""

from collections.abc import Sequence
from typing import Any

import jax

from pyramid_jax.diffusion import tiling as patches
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import params as params_lib


def encode(
  model: first_stages.Network,
  params: Any,
  image: jax.Array,
  tiles: patches.Tiling,
  noise: jax.Array | None = None,
) -> list[jax.Array]:
  """Returns the latents of an image, as `model.encode` gives them.

  Args:
    model: the first stage.
    params: its weights.
    image: (B, H, W, 3) in [-1, 1].
    tiles: of the image; windows begin and end at multiples of the factor of
      the coarsest scale.
    noise: of the latent's shape, as of `model.encode`.

  Returns:
    One (B, h, w, C) float32 a scale, coarse first.

  Raises:
    ValueError: an image of another size, or windows that cut through a cell.
  """
  cut = [patches.windows(image, tiles)]
  finest = model.factor
  if noise is not None:
    height, width = tiles.shape
    grid = tiles.at(height // finest, width // finest)
    cut.append(patches.windows(noise, grid))

  def one(window: Sequence[jax.Array]) -> list[jax.Array]:
    batch = [x[None] for x in window]
    zs = params_lib.apply(model, params, *batch, method='encode')
    return [z[0] for z in zs]

  zs = jax.lax.map(one, cut)
  return [patches.merge(z, _grid(z, tiles)) for z in zs]


def decode(
  model: first_stages.Network,
  params: Any,
  zs: Sequence[jax.Array],
  tiles: patches.Tiling,
) -> jax.Array:
  """Returns the image of latents, as `model.decode` gives it.

  Args:
    model: the first stage.
    params: its weights.
    zs: one (B, h, w, C) a scale, unscaled.
    tiles: of the image; windows begin and end at multiples of the factor of
      the coarsest scale.

  Returns:
    (B, H, W, 3) float32, about [-1, 1].

  Raises:
    ValueError: latents of another size, or windows that cut through a cell.
  """
  cut = [patches.windows(z, tiles.at(*z.shape[1:3])) for z in zs]

  def one(window: list[jax.Array]) -> jax.Array:
    batch = [z[None] for z in window]
    return params_lib.apply(model, params, batch, method='decode')[0]

  return patches.merge(jax.lax.map(one, cut), tiles)


def _grid(windows: jax.Array, tiles: patches.Tiling) -> patches.Tiling:
  """Returns the tiling of the map whose windows these are."""
  height, width = (
    side * of_window // of_tile
    for side, of_window, of_tile in zip(
      tiles.shape, windows.shape[1:3], tiles.size, strict=True
    )
  )
  return tiles.at(height, width)


def plan(
  model: first_stages.Network,
  shape: tuple[int, int],
  size: int,
  overlap: int,
) -> patches.Tiling:
  """Returns windows of `size` px that overlap by `overlap` px.

  Raises:
    ValueError: numbers that are no multiples of the coarsest factor, or an
      overlap that leaves no stride.
  """
  cell = model.coarsest_factor
  for name, value in (
    ('height', shape[0]),
    ('width', shape[1]),
    ('size', size),
    ('overlap', overlap),
  ):
    if value % cell:
      raise ValueError(f'{name} is {value}, must be a multiple of {cell}')
  if not 0 <= overlap < size:
    raise ValueError(f'overlap is {overlap}, must be in [0, {size})')
  return patches.tiling(shape, size, size - overlap)
