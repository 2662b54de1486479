"""Family `frido.msvqgan`: MSFPNVQModel and VQModelInterface of Frido.

davidhalladay/Frido: taming/models/msvqgan.py. Both classes share one state
dict.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import msvqgan as names
from pyramid_jax.networks import msvqgan
from tests.parity.families import Case
from tests.parity.families import Unsupported


# Constructor arguments that do not change what the networks compute; the
# reference stores some of them (`unsample_type`) and never looks at them.
_WITHOUT_EFFECT = {
  'lossconfig',
  'fusion',  # refused unless it is 'concat'
  'ckpt_path',
  'ignore_keys',
  'image_key',
  'colorize_nlabels',
  'monitor',
  'remap',  # refused unless it is None
  'sane_index_shape',
  'on_vit',
  'use_aux_loss',
  'unsample_type',
  'channel_range',  # refused unless it is empty
}


# name in edconfig and ddconfig -> what the reference takes where it is absent
_LEVELS = {
  'ch': None,
  'ch_mult': (1, 2, 4, 8),
  'num_res_blocks': None,
  'attn_resolutions': None,
  'resolution': None,
  'dropout': 0.0,
  'resamp_with_conv': True,
}


# The reference's networks swallow names that they do not know.
_LEVELS_WITHOUT_EFFECT = {
  'in_channels',
  'double_z',
  'out_ch',
  'attn_type',
  'tanh_out',
}


def build(config: Mapping[str, Any]) -> msvqgan.MSVQGAN:
  """Builds the module from the official constructor arguments.

  Raises:
    Unsupported: an argument that we do not have, or do not know.
  """
  config = dict(config)
  allowed: dict[str, Sequence[Any]] = {
    'fusion': ('concat',),
    'remap': (None,),
    'channel_range': ([], (), None),
  }
  for name, values in allowed.items():
    if config.get(name, values[0]) not in values:
      raise Unsupported(
        f'{name} = {config[name]!r} of MSFPNVQModel; supported: {values[0]!r}'
      )
  edconfig, ddconfig = config.pop('edconfig'), config.pop('ddconfig')
  embed_dim, n_embed = config.pop('embed_dim'), config.pop('n_embed')
  options = {
    name: config.pop(name)
    for name in ('quant_beta', 'legacy', 'init_normal')
    if name in config
  }
  unknown = sorted(config.keys() - _WITHOUT_EFFECT)
  if unknown:
    raise Unsupported(f'unknown arguments of MSFPNVQModel: {unknown}')

  scales = edconfig.get('multiscale', 3)
  if scales != len(edconfig['z_channels']):
    raise Unsupported(
      f'edconfig.multiscale = {scales} does not agree with z_channels = '
      f'{edconfig["z_channels"]}'
    )
  return msvqgan.MSVQGAN(
    edconfig={
      **levels('edconfig', edconfig, {'multiscale', 'z_channels'}),
      'z_channels': tuple(edconfig['z_channels']),
      'double_z': edconfig.get('double_z', True),
    },
    ddconfig={
      **levels('ddconfig', ddconfig, {'z_channels', 'give_pre_end'}),
      'z_channels': ddconfig['z_channels'],
      'out_ch': ddconfig['out_ch'],
    },
    embed_dim=tuple(embed_dim),
    n_embed=tuple(n_embed),
    **options,
  )


def levels(
  which: str, config: Mapping[str, Any], known: set[str]
) -> dict[str, Any]:
  """Returns the fields of `autoencoder.Levels` from a nested config."""
  if config.get('give_pre_end', False):
    raise Unsupported(f'{which}.give_pre_end = True; supported: False')
  unknown = sorted(config.keys() - _LEVELS - _LEVELS_WITHOUT_EFFECT - known)
  if unknown:
    raise Unsupported(f'unknown arguments in {which}: {unknown}')
  missing = [k for k, v in _LEVELS.items() if v is None and k not in config]
  if missing:
    raise Unsupported(f'{which} lacks {missing}')
  fields = {**_LEVELS, **{k: v for k, v in config.items() if k in _LEVELS}}
  return {k: tuple(v) if np.iterable(v) else v for k, v in fields.items()}


def run(case: Case) -> dict[str, np.ndarray]:
  """Computes the recorded outputs: see the notes inside the files.

  Raises:
    Unsupported: an option that we do not have.
  """
  module = build(case.config)
  inputs = {'x': _nhwc(case.inputs['x'])}
  if 'latent_free' in case.inputs:
    inputs['latent_free'] = _nhwc(case.inputs['latent_free'])
  template = jax.eval_shape(module.init, jax.random.key(0), inputs['x'])
  params, report = mapping.to_flax(case.state, template['params'], names.rename)
  report.require_complete()
  outputs = jax.jit(module.apply, static_argnames='method')(
    {'params': params}, inputs, method=_outputs
  )
  return {
    name: np.asarray(_nchw(x) if x.ndim == 4 else x)
    for name, x in outputs.items()
  }


def _outputs(
  module: msvqgan.MSVQGAN, inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Computes every output of a bound module, images as (B, H, W, C)."""
  features = module.encoder(inputs['x'])
  trained = module(inputs['x'])
  latents = trained['latents']
  entries, codes, losses = module.quantize(latents)
  fine = entries[-1].shape[1]
  latent = _on_grid(latents, fine)
  outputs = {
    **{f'encoder_h_{k}': h for k, h in enumerate(features)},
    **{f'prequant_{i}': z for i, z in enumerate(latents)},
    **{f'quant_{i}': q for i, q in enumerate(entries)},
    **{f'indices_{i}': c for i, c in enumerate(codes)},
    'train_fused': _on_grid(entries[::-1], fine),
    'emb_loss': sum(losses, start=jnp.zeros(1)),
    'recon': trained['reconstruction'],
    'latent': latent,
  }
  decoded = {'': latent}
  if 'latent_free' in inputs:
    decoded['_free'] = inputs['latent_free']
  for suffix, z in decoded.items():
    zs = jnp.split(z, np.cumsum(module.embed_dim)[:-1], -1)
    outputs[f'dec{suffix}'] = module.decode(zs)
    _, codes, _ = module.quantize(zs)
    outputs[f'codes{suffix}'] = jnp.stack(
      [c.reshape(len(c), -1) for c in codes]
    )
  return outputs


def _on_grid(zs: Sequence[jax.Array], height: int) -> jax.Array:
  """Repeats all maps to `height` rows and stacks their channels."""
  return jnp.concatenate(
    [
      z.repeat(height // z.shape[1], 1).repeat(height // z.shape[1], 2)
      for z in zs
    ],
    -1,
  )


def _nhwc(x: np.ndarray) -> jax.Array:
  return jnp.asarray(x).transpose(0, 2, 3, 1)


def _nchw(x: jax.Array) -> jax.Array:
  return x.transpose(0, 3, 1, 2)
