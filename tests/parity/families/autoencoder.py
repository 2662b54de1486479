"""Families `ldm.autoencoder_kl` and `ldm.vq`: first stages of one scale.

CompVis/latent-diffusion: ldm/models/autoencoder.py, AutoencoderKL, and VQModel
with VQModelInterface, which share one state dict.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import msvqgan as names
from pyramid_jax.networks import first_stages
from tests.parity import families
from tests.parity.families import msvqgan


KL = 'ldm.autoencoder_kl'
VQ = 'ldm.vq'

# Constructor arguments that do not change what the networks compute.
_WITHOUT_EFFECT = {
  'lossconfig',
  'ckpt_path',
  'ignore_keys',
  'image_key',
  'colorize_nlabels',
  'monitor',
}
_WITHOUT_EFFECT_VQ = _WITHOUT_EFFECT | {
  'batch_resize_range',
  'scheduler_config',
  'lr_g_factor',
  'use_ema',
  'sane_index_shape',  # the codes are recorded as maps either way
}
_DDCONFIG = {
  'in_channels',
  'z_channels',
  'double_z',
  'out_ch',
  'tanh_out',
  'attn_type',
  'use_linear_attn',
  'give_pre_end',
}


def build_kl(config: Mapping[str, Any]) -> first_stages.AutoencoderKL:
  """Builds the module from the arguments of AutoencoderKL.

  Raises:
    Unsupported: an argument that we do not have, or do not know.
  """
  known = {'ddconfig', 'embed_dim'}
  _refuse_unknown('AutoencoderKL', config, known | _WITHOUT_EFFECT)
  return first_stages.AutoencoderKL(
    ddconfig=_ddconfig(config['ddconfig'], double_z=True),
    embed_dim=config['embed_dim'],
  )


def build_vq(config: Mapping[str, Any]) -> first_stages.VQModel:
  """Builds the module from the arguments of VQModel.

  Raises:
    Unsupported: an argument that we do not have, or do not know.
  """
  options = {k: config[k] for k in ('beta', 'legacy') if k in config}
  known = {'ddconfig', 'embed_dim', 'n_embed', 'remap', *options}
  _refuse_unknown('VQModel', config, known | _WITHOUT_EFFECT_VQ)
  return first_stages.VQModel(
    ddconfig=_ddconfig(config['ddconfig'], double_z=False),
    embed_dim=config['embed_dim'],
    n_embed=config['n_embed'],
    **options,
  )


def _refuse_unknown(
  which: str, config: Mapping[str, Any], known: set[str]
) -> None:
  unknown = sorted(config.keys() - known)
  if unknown:
    raise families.Unsupported(f'unknown arguments of {which}: {unknown}')


def _ddconfig(config: Mapping[str, Any], double_z: bool) -> dict[str, Any]:
  """Returns the fields of both networks from the official ones."""
  fields = msvqgan.levels('ddconfig', config, _DDCONFIG)
  if config.get('double_z', True) != double_z:
    raise families.Unsupported(
      f'ddconfig.double_z = {not double_z}; supported: {double_z}'
    )
  attn_type = config.get('attn_type', 'vanilla')
  if config.get('use_linear_attn', False):
    attn_type = 'linear'
  return fields | {
    'in_channels': config.get('in_channels', 3),
    'z_channels': config['z_channels'],
    'out_ch': config['out_ch'],
    'tanh_out': config.get('tanh_out', False),
    'attn_type': attn_type,
  }


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes the recorded outputs: see the notes inside the files.

  Raises:
    Unsupported: an option that we do not have.
    ValueError: an incomplete state dict.
  """
  is_kl = case.family == KL
  module = build_kl(case.config) if is_kl else build_vq(case.config)
  inputs = {name: _nhwc(x) for name, x in case.inputs.items()}
  template = jax.eval_shape(module.init, jax.random.key(0), inputs['x'])
  params, report = mapping.to_flax(case.state, template['params'], names.rename)
  report.require_complete()
  outputs = jax.jit(module.apply, static_argnames='method')(
    {'params': params}, inputs, method=_kl_outputs if is_kl else _vq_outputs
  )
  arrays = {
    name: np.asarray(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x)
    for name, x in outputs.items()
  }
  if case.config.get('remap') is not None:
    arrays['indices'] = _remapped(case, arrays['indices'])
  return arrays


def _kl_outputs(
  module: first_stages.AutoencoderKL, inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Computes every output of a bound module, images as (B, H, W, C)."""
  h = module.encoder(inputs['x'])
  moments = module.features_of(inputs['x'])
  mean, logvar = first_stages.split_moments(moments)
  outputs = {
    'encoder_h': h,
    'moments': moments,
    'mean': mean,
    'logvar': logvar,
    'std': jnp.exp(0.5 * logvar),
    'kl': first_stages.divergence(mean, logvar),
    'mode': module.encode(inputs['x'])[0],
    'recon_from_mean': module.decode([mean]),
  }
  if 'z' in inputs:
    outputs['dec_z'] = module.decode([inputs['z']])
  if 'noise' in inputs:
    (z,) = module.encode(inputs['x'], inputs['noise'])
    outputs |= {'sample': z, 'recon_from_sample': module.decode([z])}
  return outputs


def _vq_outputs(
  module: first_stages.VQModel, inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Computes every output of a bound module, images as (B, H, W, C)."""
  trained = module(inputs['x'])
  (prequant,) = trained['latents']
  entries, _, _ = module.quantize(prequant)
  outputs = {
    'encoder_h': module.encoder(inputs['x']),
    'prequant': prequant,
    'indices': trained['codes'][0],
    'quant': entries,
    'emb_loss': trained['codebook_losses'][0],
    'dec': trained['reconstruction'],
  }
  if 'latent_in' in inputs:
    zs = [inputs['latent_in']]
    outputs['interface_dec'] = module.decode(zs)
    outputs['interface_dec_noquant'] = module.decode(zs, quantize=False)
  return outputs


def _remapped(case: families.Case, indices: np.ndarray) -> np.ndarray:
  """Returns places in the list of used codes, as `remap` asks for.

  Raises:
    Unsupported: a code outside of the list, which becomes a random one there.
  """
  used = case.state['quantize.used']
  places = {int(code): place for place, code in reversed(list(enumerate(used)))}
  strange = sorted({int(i) for i in np.unique(indices)} - places.keys())
  if strange:
    raise families.Unsupported(
      f'remap of the codes {strange[:4]}, which are not in quantize.used and'
      ' would become random ones'
    )
  return np.vectorize(places.__getitem__, otypes=[np.int32])(indices)


def _nhwc(x: np.ndarray) -> jax.Array:
  return jnp.asarray(x).transpose(0, 2, 3, 1)
