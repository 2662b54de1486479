"""Family `adm.classifier`: logits of noisy states, and their gradient.

openai/guided-diffusion: guided_diffusion/unet.py, and
CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py,
EncoderUNetModel.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import unet as names
from pyramid_jax.networks import unet_classifier
from pyramid_jax.systems.classifier import classifier as classifier_lib
from tests.parity import families
from tests.parity.families import unet


def build(config: Mapping[str, Any]) -> unet_classifier.Classifier:
  """Returns the network of an official constructor's arguments.

  Raises:
    Unsupported: see `unet.fields` and `unet.checked`.
  """
  same = {*unet.TRUNK, 'in_channels', 'pool'} - {'num_classes', 'n_embed'}
  handled = {'image_size', 'use_checkpoint'}
  arguments = unet.fields('EncoderUNetModel', config, same, handled)
  return unet.checked(unet_classifier.Classifier(**arguments))


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes the logits, and the gradient of log p(y | x) by x.

  Raises:
    Unsupported: see `build`.
    ValueError: an incomplete state dict.
  """
  network = build(case.config)
  x = jnp.asarray(case.inputs['x'].transpose(0, 2, 3, 1))
  t = jnp.asarray(case.inputs['timesteps'])
  labels = jnp.asarray(case.inputs['y']) + 1  # from 1
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), x, t))
  params, report = mapping.to_flax(
    case.state, shapes['params'], names.rename_classifier
  )
  report.require_complete()

  def total(x):
    logits = network.apply({'params': params}, x, t)
    return -classifier_lib.cross_entropy(logits, labels).sum(), logits

  gradient, logits = jax.jit(jax.grad(total, has_aux=True))(x)
  return {
    'logits': np.asarray(logits),
    'gradient': np.asarray(gradient).transpose(0, 3, 1, 2),
  }
