"""The perceptual distance of taming-transformers: official keys.

CompVis/taming-transformers: taming/modules/losses/lpips.py, LPIPS.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.networks import lpips


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns the official key of a parameter and the kind of its layout.

  There is dropout in front of the weightings, which counts as a layer.
  """
  if path[0] != 'net':
    return f'{path[0]}.model.1.weight', 'conv1x1'
  net, conv, leaf = path
  return mapping.official(f'{net}.{conv.replace("_", ".")}', leaf, 'conv')


def buffers(params: Any) -> dict[str, np.ndarray]:
  """Returns the constants of the official state dict, (1, 3, 1, 1) each."""
  del params
  return {
    'scaling_layer.shift': lpips.SHIFT.reshape(1, 3, 1, 1),
    'scaling_layer.scale': lpips.SCALE.reshape(1, 3, 1, 1),
  }


def from_torchvision(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Renames torchvision's VGG16 and the weightings (features.N, linN)."""
  slices = {
    f'features.{index}': f'net.slice{number}.{index}'
    for number, (_, indices) in enumerate(lpips.SLICES, start=1)
    for index in indices
  }
  renamed = {}
  for key, value in state.items():
    layer, _, leaf = key.rpartition('.')
    renamed[f'{slices.get(layer, layer)}.{leaf}'] = value
  return renamed
