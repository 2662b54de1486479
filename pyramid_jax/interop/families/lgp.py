"""The latent edge predictor of public ports: their keys.

ogkalu2/Sketch-Guided-Stable-Diffusion: Evaluate_LGP.py,
latent_guidance_predictor. Its first kernel is one matrix over all activations
and the noise; ours has a kernel for each activation.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import re
from typing import Any

import numpy as np

from pyramid_jax.interop import mapping


HIDDEN = (512, 256, 128, 64)
FIRST = 'layers.0.weight'
_STRIDE = 3  # layers of the reference for one of ours: linear, ReLU, norm
_LEAVES = {
  'kernel': ('weight', 'linear'),
  'bias': ('bias', 'bias'),
  'scale': ('weight', 'norm'),
  'mean': ('running_mean', 'raw'),
  'var': ('running_var', 'raw'),
}


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns the official key and kind of a parameter or statistic.

  Paths may begin with the collection. Parts of the first kernel have keys of
  their own, `layers.0.weight.NAME`, which `split` makes and `join` removes.
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
  name, kind = _LEAVES[leaf]
  return f'layers.{index}.{name}', kind


def split(
  state: Mapping[str, np.ndarray], widths: Sequence[int]
) -> dict[str, np.ndarray]:
  """Cuts the first kernel of an official state dict into one a feature.

  Args:
    state: official.
    widths: channels of the activations, in the order in which they go in; the
      rest of the kernel belongs to the noise.

  Raises:
    ValueError: activations with more channels than the kernel has.
  """
  rest = {key: value for key, value in state.items() if key != FIRST}
  if FIRST not in state:
    return rest
  kernel = np.asarray(state[FIRST])
  if sum(widths) >= kernel.shape[1]:
    raise ValueError(
      f'{FIRST} has {kernel.shape[1]} columns, which must be more than the'
      f' {sum(widths)} channels of the activations {tuple(widths)}'
    )
  *parts, noise = np.split(kernel, np.cumsum(widths), axis=1)
  names = [f'fc0_tap{k}' for k in range(len(widths))]
  cut = dict(zip(names, parts, strict=True)) | {'fc0_level': noise}
  return rest | {f'{FIRST}.{name}': part for name, part in cut.items()}


def join(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Undoes `split`."""
  parts = {k: v for k, v in state.items() if k.startswith(f'{FIRST}.')}
  rest = {k: v for k, v in state.items() if k not in parts}
  count = len(parts) - 1
  names = [*(f'fc0_tap{k}' for k in range(count)), 'fc0_level']
  ordered = [parts[f'{FIRST}.{name}'] for name in names]
  return rest | {FIRST: np.concatenate(ordered, axis=1)}


def cut(state: Mapping[str, np.ndarray], tree: Any) -> dict[str, np.ndarray]:
  """Splits a state dict for {'params': ..., 'batch_stats': ...} of shapes."""
  params = tree['params']
  count = sum(name.startswith('fc0_tap') for name in params)
  widths = [params[f'fc0_tap{k}']['kernel'].shape[0] for k in range(count)]
  return split(state, widths)
