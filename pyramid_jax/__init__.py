"""Images generated coarse to fine, in JAX.

  import pyramid_jax as pj

  pj.load        a model of a run or of a checkpoint: a pj.Pipeline
  pj.Pipeline    makes images: pipe('a red circle', count=8)
  pj.Request     what is asked of one
  pj.grid        images side by side

Importing the package starts no device and imports no system.
"""

import importlib
from typing import Any


__version__ = '0.1.0'

# name -> module that has it; imported at its first use (PEP 562).
_LAZY = {
  'Pipeline': 'pyramid_jax.pipeline',
  'Request': 'pyramid_jax.pipeline',
  'load': 'pyramid_jax.pipeline',
  'grid': 'pyramid_jax.evaluation.grids',
}
__all__ = ['Pipeline', 'Request', '__version__', 'grid', 'load']


def __getattr__(name: str) -> Any:
  if name not in _LAZY:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_LAZY])
