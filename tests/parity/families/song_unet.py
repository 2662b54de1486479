"""Family `edm.song_unet`: NVlabs/edm: training/networks.py, SongUNet.

Alone, or within one of the preconditionings.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import edm
from pyramid_jax.interop import parts
from pyramid_jax.interop.families import song_unet as names
from pyramid_jax.networks import song_unet
from tests.parity import families
from tests.parity.families import chains


_PRECOND = {
  'EDMPrecond': edm.EDM,
  'VPPrecond': edm.VP,
  'VEPrecond': edm.VE,
}
# Arguments of the official constructors that are fields of ours.
_SAME = (
  *('model_channels', 'channel_mult', 'channel_mult_emb', 'num_blocks'),
  *('attn_resolutions', 'dropout', 'embedding_type', 'channel_mult_noise'),
  *('encoder_type', 'decoder_type', 'resample_filter', 'augment_dim'),
)
# Those that are fields under other names, and without effect here.
_OTHER = {'label_dim', 'in_channels', 'out_channels', 'img_channels'}
_IGNORED = {'img_resolution', 'label_dropout', 'class', 'model_type'}


def build(config: Mapping[str, Any]) -> song_unet.SongUNet:
  """Returns the network of an official constructor's arguments.

  Raises:
    Unsupported: an unknown argument, or options that contradict each other.
  """
  unknown = sorted(set(config) - {*_SAME, *_OTHER, *_IGNORED})
  if unknown:
    raise families.Unsupported(f'unknown arguments of SongUNet: {unknown}')
  channels = config.get('img_channels')
  network = song_unet.SongUNet(
    in_channels=config.get('in_channels', channels),
    out_channels=config.get('out_channels', channels),
    num_classes=config.get('label_dim', 0),
    **{name: config[name] for name in _SAME if name in config},
  )
  try:
    network.check_options()
  except ValueError as error:
    raise families.Unsupported(str(error)) from error
  return network


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes out, or D within a preconditioning.

  Raises:
    Unsupported: see `build`.
    ValueError: an incomplete state dict, or other filters in it.
  """
  network = build(case.config)
  x = jnp.asarray(chains.nhwc(case.inputs['x']))
  labels = {
    'class_labels': _ids(case.inputs.get('class_labels')),
    'augment_labels': case.inputs.get('augment_labels'),
  }
  template = jax.eval_shape(
    network.init, jax.random.key(0), x, jnp.zeros(len(x))
  )
  variables, report = parts.to_flax('edm.song_unet', case.state, template)
  report.require_complete()
  prefix = 'model.' if 'class' in case.config else ''
  keys = [key.removeprefix(prefix) for key in report.matched]
  filters = {
    prefix + key: value
    for key, value in names.filters(keys, network.resample_filter).items()
  }
  if report.unused.keys() != filters.keys():
    odd = sorted(report.unused.keys() ^ filters.keys())
    raise ValueError(f'not as many filters as needed: {odd[:4]}')
  for key, want in filters.items():
    if not np.allclose(case.state[key], want, rtol=1e-6):
      raise ValueError(f'{key} is not the filter of this network')

  def call(x, noise):
    return network.apply(variables, x, jnp.ravel(noise), **labels)

  if 'class' not in case.config:
    out = jax.jit(call)(x, jnp.asarray(case.inputs['noise_labels']))
    return {'out': chains.nchw(out)}
  precond = _PRECOND[case.config['class']]()
  sigma = jnp.asarray(case.inputs['sigma'])
  denoised = jax.jit(lambda x, s: edm.denoise(precond, call, x, s))(x, sigma)
  return {'D': chains.nchw(denoised)}


def _ids(one_hot: np.ndarray | None) -> np.ndarray | None:
  """Returns (B,) ids of rows (B, classes), the last for a row of zeros."""
  if one_hot is None:
    return None
  none = one_hot.shape[-1]
  return np.where(one_hot.any(-1), one_hot.argmax(-1), none)
