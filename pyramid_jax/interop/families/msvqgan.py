"""Family `frido.msvqgan`: MSFPNVQModel and VQModelInterface of Frido.

Reference: davidhalladay/Frido, taming/models/msvqgan.py. Both classes share
one state dict.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import Case
from pyramid_jax.interop.families import Unsupported
from pyramid_jax.networks import msvqgan


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


def rename(path: Sequence[str]) -> tuple[str, str]:
  """Returns the official key of a parameter and the kind of its layout."""
  parts: list[str] = []
  for parent, name in zip(('', *path), path[:-1], strict=False):
    stem, _, index = name.rpartition('_')
    # the middle's block_1, attn_1 and block_2 are names, not list entries
    in_list = index.isdigit() and not parent.startswith('mid')
    parts.append(f'{stem}.{index}' if in_list else name)
  leaf = path[-1]
  if leaf == 'embedding':
    return '.'.join([*parts, 'embedding', 'weight']), 'embedding'
  if leaf == 'bias':
    return '.'.join([*parts, 'bias']), 'bias'
  transposed = len(path) == 2 and path[0].startswith('upsample_')
  kind = 'conv_transpose' if transposed else 'conv'
  return (
    '.'.join([*parts, 'weight']),
    {'scale': 'norm', 'kernel': kind}[leaf],
  )


def build(config: Mapping[str, Any]) -> msvqgan.MSVQGAN:
  """Builds the module from the official constructor arguments.

  Raises:
    Unsupported: an argument that we do not have, or do not know.
  """
  config = dict(config)
  allowed = {
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
      **_levels('edconfig', edconfig, {'multiscale', 'z_channels'}),
      'z_channels': tuple(edconfig['z_channels']),
      'double_z': edconfig.get('double_z', True),
    },
    ddconfig={
      **_levels('ddconfig', ddconfig, {'z_channels', 'give_pre_end'}),
      'z_channels': ddconfig['z_channels'],
      'out_ch': ddconfig['out_ch'],
    },
    embed_dim=tuple(embed_dim),
    n_embed=tuple(n_embed),
    **options,
  )


def _levels(
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
  image = _nhwc(case.inputs['x'])
  template = jax.eval_shape(module.init, jax.random.key(0), image)['params']
  params, report = mapping.to_flax(case.state, template, rename)
  report.require_complete()
  variables = {'params': params}
  apply = jax.jit(module.apply, static_argnames='method')

  features = apply(variables, image, method=lambda m, x: m.encoder(x))
  outputs = {f'encoder_h_{k}': _nchw(h) for k, h in enumerate(features)}

  latents = apply(variables, image, method='encode')
  entries, codes, losses = apply(variables, latents, method='quantize')
  for i, (z, q, c) in enumerate(zip(latents, entries, codes, strict=True)):
    outputs[f'prequant_{i}'] = _nchw(z)
    outputs[f'quant_{i}'] = _nchw(q)
    outputs[f'indices_{i}'] = np.asarray(c)
  fine = entries[-1].shape[1]
  outputs['train_fused'] = _nchw(_on_grid(entries[::-1], fine))
  outputs['emb_loss'] = np.asarray(sum(losses)).reshape(1)
  outputs['recon'] = _nchw(apply(variables, image)['reconstruction'])

  latent = _on_grid(latents, fine)
  outputs['latent'] = _nchw(latent)
  free = {}
  if 'latent_free' in case.inputs:
    free['_free'] = _nhwc(case.inputs['latent_free'])
  for suffix, z in {'': latent, **free}.items():
    zs = jnp.split(z, np.cumsum(module.embed_dim)[:-1], -1)
    decoded = apply(variables, zs, method='decode')
    _, codes, _ = apply(variables, zs, method='quantize')
    outputs[f'dec{suffix}'] = _nchw(decoded)
    outputs[f'codes{suffix}'] = np.stack(
      [np.asarray(c).reshape(len(c), -1) for c in codes]
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


def _nchw(x: jax.Array) -> np.ndarray:
  return np.asarray(x).transpose(0, 3, 1, 2)
