"""Family `lgp.mlp`: the latent edge predictor of public ports.

ogkalu2/Sketch-Guided-Stable-Diffusion: Evaluate_LGP.py,
latent_guidance_predictor.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import lgp as names
from pyramid_jax.networks import edge_predictor
from tests.parity.families import Case
from tests.parity.families import Unsupported


_ARGUMENTS = ('output_dim', 'input_dim', 'num_encodings')


def build(config: Mapping[str, Any]) -> edge_predictor.EdgePredictor:
  """Builds the module from the official constructor arguments.

  Raises:
    Unsupported: an argument that we do not know.
  """
  unknown = sorted(config.keys() - set(_ARGUMENTS))
  if unknown:
    raise Unsupported(
      f'unknown arguments of latent_guidance_predictor: {unknown}'
    )
  return edge_predictor.EdgePredictor(
    out_channels=(config['output_dim'],),
    hidden=names.HIDDEN,
    octaves=config['num_encodings'],
    noise_input='map',
    feature_norm='none',
  )


def run(case: Case) -> dict[str, np.ndarray]:
  """Computes the encoding and both outputs.

  Raises:
    Unsupported: an option that we do not have, or sizes that contradict.
  """
  module = build(case.config)
  x, noise = (jnp.asarray(case.inputs[name]) for name in ('x', 't'))
  encoding = edge_predictor.encode_noise(noise, module.octaves)
  width = x.shape[-1] + encoding.shape[-1]
  if width != case.config['input_dim']:
    raise Unsupported(
      f'input_dim = {case.config["input_dim"]}, but {x.shape[-1]} features and'
      f' an encoding of {encoding.shape[-1]} are {width}'
    )
  size = noise.shape[1:3]
  template = jax.eval_shape(
    lambda key: module.init(key, [x], noise, size), jax.random.key(0)
  )
  state = names.cut(case.state, template)
  variables, report = mapping.to_flax(state, template, names.rename)
  report.require_complete()
  y = module.apply(variables, [x], noise, size)
  y_train, _ = module.apply(
    variables, [x], noise, size, train=True, mutable=['batch_stats']
  )
  flat = lambda a: np.asarray(a).reshape(-1, a.shape[-1])
  return {
    'y': flat(y),
    'y_train': flat(y_train),
    'encoding': np.asarray(encoding),
  }
