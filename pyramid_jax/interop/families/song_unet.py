"""The U-Nets DDPM++ and NCSN++ of EDM: official keys.

NVlabs/edm: training/networks.py, SongUNet. The filters that its state dict
repeats for each change of the size are an option of ours: `filters`.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import re

import numpy as np

from pyramid_jax.interop import mapping


# What may stand before the keys: those of a preconditioned network.
PREFIXES = ('', 'model.')
FILTER = '.resample_filter'

_FREQUENCIES = 'map_noise.freqs'
# Last module of a path -> kind of its kernel; the others are convolutions.
_KINDS = {
  'affine': 'linear',
  'skip': 'conv1x1',
  'proj': 'conv1x1',
  'qkv': 'conv1x1_qkv',
}


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns official key and kind of a variable.

  Paths begin with the collection: 'params', or 'buffers' of the frequencies.
  """
  _, *modules, leaf = path
  if not modules:
    return _FREQUENCIES, 'raw'
  names = [re.sub(r'^(enc|dec)_', r'\1.', m) for m in modules if m != 'attn']
  last = re.sub(r'^map_layer_', 'map_layer', names[-1])
  if last.startswith('map_'):
    kind = 'linear'
  else:
    kind = 'conv1x1' if last.endswith('_aux_skip') else _KINDS.get(last, 'conv')
  key, kind = mapping.official('.'.join([*names[:-1], last]), leaf, kind)
  is_bias = last == 'qkv' and leaf == 'bias'
  return key, 'bias_qkv' if is_bias else kind


def filter_of(taps: Sequence[float]) -> np.ndarray:
  """Returns the official buffer of a filter, (1, 1, n, n) float32."""
  weights = np.asarray(taps, np.float32)
  return (np.outer(weights, weights) / weights.sum() ** 2)[None, None]


def filters(
  keys: Iterable[str], taps: Sequence[float]
) -> dict[str, np.ndarray]:
  """Returns the buffers of the filters of a network.

  Args:
    keys: the official keys of its parameters, without a prefix.
    taps: the weights of neighbours.
  """
  modules = [k.removesuffix('.weight') for k in keys if k.endswith('.weight')]
  names = [
    m for m in modules if re.search(r'_((down|up)\.(conv0|skip)|residual)$', m)
  ]
  # Modules without parameters, beside some that have them.
  names += [m[:-4] + 'down' for m in modules if m.endswith('_aux_skip')]
  results = [m for m in modules if m.endswith('_aux_conv')]
  finer = sorted(results, key=lambda m: int(re.split('[.x]', m)[1]))[1:]
  names += [m[:-4] + 'up' for m in finer]
  return {name + FILTER: filter_of(taps) for name in names}
