"""DiT: official keys.

facebookresearch/DiT: models.py, DiT. The fixed position table of its state dict
is computed, not converted: `sized_buffers`.
"""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import latent_diffit
from pyramid_jax.networks.layers import embeddings


_MODULES = {
  'attn_qkv': 'attn.qkv',
  'attn_proj': 'attn.proj',
  'adaLN_modulation_1': 'adaLN_modulation.1',
  'final_layer_adaLN_modulation_1': 'final_layer.adaLN_modulation.1',
}


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns official key and kind of a parameter; blocks are unstacked."""
  return latent_diffit.rename(tuple(_MODULES.get(part, part) for part in path))


def positions(width: int, grid: int) -> dict[str, np.ndarray]:
  """Returns the official table of the positions of a square grid."""
  table = embeddings.sincos_table(width, grid)
  return {latent_diffit.POSITIONS: table.reshape(1, grid**2, width)}


def sized_buffers(
  params: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the official constants, given unstacked parameters or shapes.

  Parameters do not depend on the number of positions, so the table is as large
  as that of the official state dict; empty without one.
  """
  (width,) = params['x_embedder_proj']['bias'].shape
  found = state.get(latent_diffit.POSITIONS)
  rows = 0 if found is None or np.ndim(found) != 3 else np.shape(found)[1]
  return positions(width, math.isqrt(rows))


def check_grid(state: Mapping[str, np.ndarray], grid: int) -> None:
  """Raises ValueError for a state dict of a network with another grid."""
  for key in state:
    if key.split('.')[-1] == latent_diffit.POSITIONS:
      rows = np.shape(state[key])[1]
      if rows != grid**2:
        raise ValueError(
          f'{key} has {rows} positions, that of the config {grid**2}: the'
          ' checkpoint is of another image size'
        )
