"""Family `ldm.lpips`: the perceptual distance of taming-transformers.

davidhalladay/Frido: taming/modules/losses/lpips.py, LPIPS, in evaluation mode.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import lpips as names
from pyramid_jax.networks import lpips
from tests.parity.families import Case
from tests.parity.families import Unsupported


def rename(use_dropout: bool) -> mapping.Rename:
  """Returns the names of LPIPS with or without dropout, which is a layer."""

  def rename_one(path: mapping.Path) -> tuple[str, str]:
    key, kind = names.rename(path)
    return key if use_dropout else key.replace('.model.1.', '.model.0.'), kind

  return rename_one


def build(config: Mapping[str, Any]) -> lpips.LPIPS:
  """Builds the module from the official constructor arguments.

  Raises:
    Unsupported: an argument that we do not know.
  """
  unknown = sorted(config.keys() - {'use_dropout'})
  if unknown:
    raise Unsupported(f'unknown arguments of LPIPS: {unknown}')
  return lpips.LPIPS()


def run(case: Case) -> dict[str, np.ndarray]:
  """Computes the distance of the inputs a and b, and the features of a.

  Raises:
    Unsupported: an option, or a scaling of the inputs, that we do not have.
  """
  module = build(case.config)
  for name, want in {'shift': lpips.SHIFT, 'scale': lpips.SCALE}.items():
    got = case.state.get(f'scaling_layer.{name}')
    if got is None or not np.allclose(np.ravel(got), want):
      raise Unsupported(f'scaling_layer.{name} is {got}, supported: {want}')

  a, b = (jnp.asarray(case.inputs[name]).transpose(0, 2, 3, 1) for name in 'ab')
  template = jax.eval_shape(module.init, jax.random.key(0), a, b)['params']
  use_dropout = case.config.get('use_dropout', True)
  params, report = mapping.to_flax(case.state, template, rename(use_dropout))
  report.require_complete()

  variables = {'params': params}
  distance = module.apply(variables, a, b)
  outputs = {'distance': np.asarray(distance).reshape(-1, 1, 1, 1)}
  features = module.apply(variables, a, method='features')
  for name, x in zip(lpips.FEATURE_NAMES, features, strict=True):
    outputs[f'feat_mean/{name}'] = np.asarray(x.mean((1, 2)))
    outputs[f'feat/{name}'] = np.asarray(x).transpose(0, 3, 1, 2)
  return outputs
