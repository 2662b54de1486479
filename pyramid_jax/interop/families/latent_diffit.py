"""Latent DiffiT: official keys.

NVlabs/DiffiT: diffit/diffit.py, DiffiT. The fixed position table and the index
buffers of its state dict are computed, not converted: `buffers`.
"""

from collections.abc import Mapping
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.networks import diffit_trunk
from pyramid_jax.networks import latent_diffit
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import tmsa


Network = latent_diffit.LatentDiffiT

# What may stand before the keys of a released file.
PREFIXES = ('', 'module.', 'model.', 'ema.')
SCANNED = diffit_trunk.BLOCKS

POSITIONS = 'pos_embed'
_INDEX = 'relative_position_index'


_MODULES = {
  'x_embedder_proj': 'x_embedder.proj',
  't_embedder_mlp_0': 't_embedder.mlp.0',
  't_embedder_mlp_2': 't_embedder.mlp.2',
  'y_embedder': 'y_embedder.embedding_table',
  'final_layer_linear': 'final_layer.linear',
  'mlp_fc1': 'mlp.fc1',
  'mlp_fc2': 'mlp.fc2',
}


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns official key and kind of a parameter; blocks are unstacked."""
  *modules, leaf = path
  names = [_MODULES.get(m, re.sub(r'^blocks_', 'blocks.', m)) for m in modules]
  kernel = 'conv' if modules[-1:] == ['x_embedder_proj'] else 'linear'
  return mapping.official('.'.join(names), leaf, kernel)


def buffers(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the official constants and unstacked parameters or shapes."""
  blocks = [name for name in params if re.fullmatch(r'blocks_\d+', name)]
  rows, _ = params['blocks_0']['attn']['relative_position_bias_table'].shape
  grid = _grid(rows)
  (dim,) = params['x_embedder_proj']['bias'].shape
  index = tmsa.relative_position_index(grid)
  positions = embeddings.sincos_table(dim, grid).reshape(1, grid**2, dim)
  return {POSITIONS: positions} | {
    f'{name.replace("_", ".")}.attn.{_INDEX}': index for name in blocks
  }


def infer(state: Mapping[str, np.ndarray]) -> Network:
  """Returns the network whose weights an official state dict holds.

  Raises:
    ValueError: keys that tell the sizes are missing, or sizes that no
      network has.
  """
  key = 'x_embedder.proj.weight'
  prefix = next((p for p in PREFIXES if p + key in state), None)
  if prefix is None:
    raise ValueError(f'no key {key!r}: not a latent DiffiT')

  def shape(name: str, rank: int = 2) -> tuple[int, ...]:
    if prefix + name not in state:
      raise ValueError(f'no key {prefix + name!r}: an incomplete latent DiffiT')
    found = np.shape(state[prefix + name])
    if len(found) != rank or 0 in found:
      raise ValueError(f'{prefix + name} of shape {found}, needed rank {rank}')
    return found

  width, channels, patch, _ = shape(key, 4)
  rows, heads = shape('blocks.0.attn.relative_position_bias_table')
  hidden, _ = shape('blocks.0.mlp.fc1.weight')
  labels, _ = shape('y_embedder.embedding_table.weight')
  outputs, _ = shape('final_layer.linear.weight')
  if outputs not in (patch**2 * channels, 2 * patch**2 * channels):
    raise ValueError(
      f'{outputs} outputs for patches of {patch} x {patch} x {channels}: '
      'needed as many values, or twice as many'
    )
  blocks = [re.match(rf'{prefix}blocks\.(\d+)\.', key) for key in state]
  network = Network(
    input_size=_grid(rows) * patch,
    patch_size=patch,
    in_channels=channels,
    hidden_size=width,
    depth=1 + max(int(block[1]) for block in blocks if block),
    num_heads=heads,
    mlp_ratio=_ratio(hidden, width),
    num_classes=labels - 1,
    learn_sigma=outputs == 2 * patch**2 * channels,
    scan=False,
  )
  network.check_options()
  return network


def nothing(network: Network) -> tuple[jax.Array, ...]:
  """Returns arguments that a network can be initialised with."""
  side = network.input_size
  x = jnp.zeros((1, side, side, network.in_channels))
  labels = (jnp.zeros(1, jnp.int32),) if network.num_classes else ()
  return x, jnp.zeros(1), *labels


def _grid(rows: int) -> int:
  """Returns the side of the grid that has so many relative positions."""
  span = round(rows**0.5)
  if span**2 != rows or span % 2 == 0:
    raise ValueError(
      f'a relative position table of {rows} rows; needed the square of an odd '
      'number'
    )
  return (span + 1) // 2


def _ratio(hidden: int, width: int) -> float:
  """Returns a ratio r with int(r * width) = hidden."""
  ratio = hidden / width
  return ratio if int(ratio * width) == hidden else (hidden + 0.5) / width
