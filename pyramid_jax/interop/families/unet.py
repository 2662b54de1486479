"""The U-Nets of ADM, LDM and Frido: official keys, by the same rule.

CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py,
UNetModel; davidhalladay/Frido: frido/modules/diffusionmodules/pyunet.py,
PyUNetModel; openai/guided-diffusion: guided_diffusion/unet.py, UNetModel and
EncoderUNetModel.
"""

import re

from pyramid_jax.interop import mapping


# Parts of a Flax name -> what the official code calls them. `attn_out` is
# the AttentionBlock's 1-D convolution, apart from the transformer's 2-D one.
_PARTS = (
  (r'^net_0$', 'net.0.proj'),
  (r'^to_out$', 'to_out.0'),
  (r'^attn_out$', 'proj_out'),
  (r'_(\d+)', r'.\1'),
)

_CONV_1X1 = (
  'proj_in',
  'proj_out',
  'cond_proj_in',
  'skip_connection',
  'id_predictor_1',
)
_CONV_1D = ('qkv', 'attn_out')
_LINEAR = re.compile(
  r'time_embed_\d|label_emb|emb_layers_1|to_(q|k|v|out)|net_\d|grid_proj'
)


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns official key and kind of a parameter of a U-Net."""
  *modules, leaf = path
  parts = []
  for part in modules:
    for pattern, replacement in _PARTS:
      part = re.sub(pattern, replacement, part)
    parts.append(part)
  key = '.'.join(parts)
  return mapping.official(key, leaf, _kernel(*modules[-1:]))


# Modules of the pools of a classifier -> official name, kind of the kernel.
_POOLS = {
  'out_3': ('out.3', 'conv1x1'),
  'spatial_0': ('out.0', 'linear'),
  'spatial_2': ('out.2', 'linear'),
  'spatial_v2_0': ('out.0', 'linear'),
  'spatial_v2_1': ('out.1', 'norm'),
  'spatial_v2_3': ('out.3', 'linear'),
}


def rename_classifier(path: mapping.Path) -> tuple[str, str]:
  """Returns official key and kind of a parameter of a noisy classifier."""
  first, *rest = path
  if first in _POOLS:
    return mapping.official(_POOLS[first][0], rest[-1], _POOLS[first][1])
  if first != 'out_2':
    return rename(path)
  if rest == ['positional_embedding']:
    return 'out.2.positional_embedding', 'linear'
  name = {'qkv': 'qkv_proj'}.get(rest[0], rest[0])
  return mapping.official(f'out.2.{name}', rest[-1], 'conv1d')


def _kernel(module: str = '') -> str:
  if module in _CONV_1X1:
    return 'conv1x1'
  if module in _CONV_1D:
    return 'conv1d'
  return 'linear' if _LINEAR.fullmatch(module) else 'conv'
