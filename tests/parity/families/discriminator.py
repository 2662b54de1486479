"""Family `ldm.discriminator`: the patch discriminator of taming-transformers.

davidhalladay/Frido: taming/modules/discriminator/model.py,
NLayerDiscriminator.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import discriminator as names
from pyramid_jax.networks import discriminator
from tests.parity.families import Case
from tests.parity.families import Unsupported


_ARGUMENTS = ('input_nc', 'ndf', 'n_layers', 'use_actnorm')


def build(config: Mapping[str, Any]) -> discriminator.PatchDiscriminator:
  """Builds the module from the official constructor arguments.

  Raises:
    Unsupported: an argument that we do not know.
  """
  unknown = sorted(config.keys() - {*_ARGUMENTS, 'mode'})
  if unknown:
    raise Unsupported(f'unknown arguments of NLayerDiscriminator: {unknown}')
  known = {k: v for k, v in config.items() if k in _ARGUMENTS}
  return discriminator.PatchDiscriminator(**known)


def run(case: Case) -> dict[str, np.ndarray]:
  """Computes the logits, and in training mode the statistics afterwards.

  Raises:
    Unsupported: an option that we do not have.
  """
  module = build(case.config)
  mode = case.config.get('mode', 'eval')
  if mode not in ('eval', 'train'):
    raise Unsupported(f'mode = {mode!r}; supported: eval, train')
  train = mode == 'train'
  if train and module.use_actnorm:
    started = [v for k, v in case.state.items() if k.endswith('initialized')]
    if not np.all(started):
      raise Unsupported('ActNorm that starts from its first batch')

  image = jnp.asarray(case.inputs['x']).transpose(0, 2, 3, 1)
  template = jax.eval_shape(module.init, jax.random.key(0), image)
  variables, report = mapping.to_flax(case.state, template, names.rename)
  report.require_complete()
  logits, after = module.apply(
    variables, image, train=train, mutable=[discriminator.STATISTICS]
  )
  outputs = {'logits': np.asarray(logits).transpose(0, 3, 1, 2)}
  if train:
    for key, value in mapping.to_official(after, names.rename).items():
      outputs[f'after/{key}'] = value
  return outputs
