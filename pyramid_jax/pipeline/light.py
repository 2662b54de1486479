"""The light of an image, by a run of the system `hdr`."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax import errors
from pyramid_jax.diffusion import tiling
from pyramid_jax.runs import loading
from pyramid_jax.runs import workdir as workdir_lib


_AT_ONCE = 16  # windows


def radiance(
  workdir: str | os.PathLike[str], panorama: np.ndarray
) -> np.ndarray:
  """Returns light (H, W, 3) float32 of a panorama (H, W, 3) uint8; 1 is white.

  The network sees windows of its own size, every half of which overlaps the
  next, of the ring that a panorama is.

  Raises:
    UserError: a run of another system, or without usable weights.
  """
  config = check(workdir)
  run = loading.load(config, workdir)
  system: Any = run.system
  height, width, _ = panorama.shape
  side = system.image_size
  half = side // 2
  ring = np.pad(panorama, ((0, 0), (half, half), (0, 0)), 'wrap')
  lacks = max(side - height, 0), max(side - ring.shape[1], 0)
  ring = np.pad(ring, ((0, lacks[0]), (0, lacks[1]), (0, 0)), 'edge')
  tiles = tiling.tiling(ring.shape[:2], side, half)

  @jax.jit
  def light(weights: Any, image: jax.Array) -> jax.Array:
    parts = tiling.windows(image.astype(jnp.float32) / 255.0, tiles)
    one = lambda part: system.radiance(weights, part[None])[0]
    made = jax.lax.map(one, parts, batch_size=_AT_ONCE)
    return tiling.merge(made, tiles)[0, :height, half : half + width]

  return np.asarray(light(run.weights, ring[None]))


def check(workdir: str | os.PathLike[str]) -> Any:
  """Returns the config of a run of `hdr`; another is a UserError."""
  config = workdir_lib.read_config(workdir)
  if config.system.name != 'hdr':
    raise errors.UserError(
      f'hdr={workdir}: a run of the system {config.system.name!r}, must be one'
      " of 'hdr'."
    )
  return config
