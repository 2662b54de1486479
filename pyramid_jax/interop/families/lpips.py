"""The perceptual distance of taming-transformers: official keys.

CompVis/taming-transformers: taming/modules/losses/lpips.py, LPIPS.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from pyramid_jax.networks import lpips


def rename(path: Sequence[str], use_dropout: bool = True) -> tuple[str, str]:
  """Returns the official key of a parameter and the kind of its layout.

  Args:
    path: of the parameter.
    use_dropout: whether the reference was built with dropout in front of the
      weightings, which counts as a layer in its keys.
  """
  if path[0] != 'net':
    return f'{path[0]}.model.{int(use_dropout)}.weight', 'conv1x1'
  net, conv, leaf = path
  conv = conv.replace('_', '.')
  if leaf == 'kernel':
    return f'{net}.{conv}.weight', 'conv'
  return f'{net}.{conv}.bias', 'bias'


def from_torchvision(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Renames torchvision's VGG16 beside the weightings (features.N, linN)."""
  slices = {
    str(index): f'net.slice{number}.{index}'
    for number, (_, indices) in enumerate(lpips.SLICES, start=1)
    for index in indices
  }
  renamed = {}
  for key, value in state.items():
    if key.startswith('features.'):
      _, index, leaf = key.split('.')
      renamed[f'{slices.get(index, "features." + index)}.{leaf}'] = value
    else:
      renamed[key] = value
  return renamed
