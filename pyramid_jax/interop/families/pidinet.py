"""PiDiNet: official keys, and pixel differences as plain kernels.

hellozhuo/pidinet: models/pidinet.py, PiDiNet with the operations `carv4`, of
every released size. Its files hold kernels of pixel differences; its class
`PiDiNet` with `convert=True`, and ours, hold plain ones. Both are read; what is
written is plain, for differences cannot be recovered from their kernels. The
baseline of its Table 5 has the shapes of the standard size and no differences:
it is another network, and its file does not say so.
"""

from collections.abc import Mapping

import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.networks import pidinet


PREFIXES = ('', 'module.')
_FIRST = 'init_block'
_RADIAL = 'block1_2.conv1.weight'  # layer 2: plain it is 5 x 5

# The place before each in a flattened 3 x 3 kernel, clockwise.
_BEFORE = (3, 0, 1, 6, 4, 2, 7, 8, 5)
# Places of flattened 5 x 5 kernels, in the same directions.
_OUTER = (0, 2, 4, 10, 14, 20, 22, 24)
_INNER = (6, 7, 8, 11, 13, 16, 17, 18)


def _layers() -> dict[str, str]:
  """Returns {official key: operation} of what differences may make."""
  names = [f'{_FIRST}.weight']
  for stage, count in enumerate(pidinet.BLOCKS, start=1):
    names += [f'block{stage}_{j + 1}.conv1.weight' for j in range(count)]
  cycle = pidinet.CYCLE
  return {name: cycle[i % len(cycle)] for i, name in enumerate(names)}


def plain_kernel(operation: str, kernel: np.ndarray) -> np.ndarray:
  """Returns the kernel whose convolution is that of pixel differences.

  Args:
    operation: cd: differences to the centre; ad: to the next pixel around it,
      clockwise; rd: of the outer to the inner pixel of a radius; cv: none.
    kernel: (O, I, 3, 3).

  Returns:
    (O, I, 3, 3), of rd (O, I, 5, 5), whose nearest places are the inner ones.
  """
  flat = kernel.reshape(*kernel.shape[:2], 9)
  if operation == 'cd':
    plain = flat.copy()
    plain[..., 4] -= flat.sum(-1)
  elif operation == 'ad':
    plain = flat - flat[..., _BEFORE]
  elif operation == 'rd':
    plain = np.zeros((*kernel.shape[:2], 25), kernel.dtype)
    plain[..., _OUTER] = flat[..., 1:]
    plain[..., _INNER] = -flat[..., 1:]
    return plain.reshape(*kernel.shape[:2], 5, 5)
  else:
    return kernel
  return plain.reshape(kernel.shape)


def adapt(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Makes kernels plain, of a file that holds pixel differences."""
  out = dict(state)
  for prefix in PREFIXES:
    shape = np.shape(state.get(prefix + _RADIAL, ()))
    if len(shape) != 4 or shape[2:] != (3, 3):
      continue
    for name, operation in _layers().items():
      kernel = np.asarray(state.get(prefix + name, ()))
      if kernel.ndim == 4 and kernel.shape[2:] == (3, 3):
        out[prefix + name] = plain_kernel(operation, kernel)
  return out


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns the official key of a parameter, and its kind."""
  *modules, leaf = path
  name, _, number = modules[0].rpartition('_')
  if name in ('dilations', 'attentions'):
    modules = [name, number, *modules[1:]]
  elif name == 'conv_reduces':
    modules = [name, number, 'conv']
  return mapping.official('.'.join(modules), leaf, 'conv')


def infer(state: Mapping[str, np.ndarray]) -> pidinet.PiDiNet:
  """Returns the network whose weights a state dict holds.

  Raises:
    ValueError: it is not that of a PiDiNet.
  """
  for prefix in PREFIXES:
    first = np.shape(state.get(f'{prefix}{_FIRST}.weight', ()))
    if len(first) == 4:
      mixed = state.get(f'{prefix}dilations.0.conv1.bias', ())
      return pidinet.PiDiNet(
        width=first[0],
        dilated=np.size(mixed),
        attention=f'{prefix}attentions.0.conv1.bias' in state,
      )
  raise ValueError(f'no key {_FIRST}.weight: not a PiDiNet')
