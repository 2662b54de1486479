"""The latent edge predictor of public ports: their keys.

ogkalu2/Sketch-Guided-Stable-Diffusion: Evaluate_LGP.py,
latent_guidance_predictor. Its first kernel is one matrix over all activations
and the noise; ours has a kernel for each activation.
"""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from pyramid_jax.interop import mapping


HIDDEN = (512, 256, 128, 64)
FIRST = 'layers.0.weight'
_STRIDE = 3  # layers of the reference for one of ours: linear, ReLU, norm


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns the official key and kind of a parameter or statistic.

  Paths may begin with the collection. Parts of the first kernel have keys of
  their own, `layers.0.weight.NAME`, which `cut` makes and `join` removes.
  """
  *_, module = path if len(path) == 1 else path[:-1]
  leaf = path[-1]
  if leaf == 'fc0_bias':
    return 'layers.0.bias', 'bias'
  if module.startswith('fc0_'):
    return f'{FIRST}.{module}', 'linear'
  found = re.fullmatch(r'(fc|norm)(\d+)', module)
  if found:
    index = _STRIDE * int(found[2]) + (2 if found[1] == 'norm' else 0)
  elif module == 'out':
    index = _STRIDE * len(HIDDEN)
  else:
    raise ValueError(
      f'{"/".join(path)} is nothing that the reference has: it knows no stages'
    )
  return mapping.official(f'layers.{index}', leaf)


def cut(state: Mapping[str, np.ndarray], tree: Any) -> dict[str, np.ndarray]:
  """Cuts the first kernel of an official state dict into those of the features.

  `tree` is {'params': ..., 'batch_stats': ...} of shapes, with a kernel for
  each activation in turn; the rest of the official one belongs to the noise.

  Raises:
    ValueError: activations with more channels than the kernel has.
  """
  rest = {key: value for key, value in state.items() if key != FIRST}
  if FIRST not in state:
    return rest
  params = tree['params']
  count = sum(name.startswith('fc0_tap') for name in params)
  widths = [params[f'fc0_tap{k}']['kernel'].shape[0] for k in range(count)]
  kernel = np.asarray(state[FIRST])
  if sum(widths) >= kernel.shape[1]:
    raise ValueError(
      f'{FIRST} has {kernel.shape[1]} columns, which must be more than the'
      f' {sum(widths)} channels of the activations {tuple(widths)}'
    )
  parts = np.split(kernel, np.cumsum(widths), axis=1)
  return rest | dict(zip(_keys(count), parts, strict=True))


def join(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Undoes `cut`."""
  rest = {k: v for k, v in state.items() if not k.startswith(f'{FIRST}.')}
  parts = [state[key] for key in _keys(len(state) - len(rest) - 1)]
  return rest | {FIRST: np.concatenate(parts, axis=1)}


def _keys(count: int) -> list[str]:
  """Returns the keys of the parts of the first kernel."""
  names = [*(f'fc0_tap{k}' for k in range(count)), 'fc0_level']
  return [f'{FIRST}.{name}' for name in names]
