"""The denoiser of Frido: official keys and recorded runs.

davidhalladay/Frido: frido/modules/diffusionmodules/pyunet.py, PyUNetModel.
"""

from collections.abc import Mapping
import re
from typing import Any

import jax
import numpy as np

from pyramid_jax.interop import families
from pyramid_jax.interop import mapping
from pyramid_jax.networks import pyunet


# Arguments of the official constructor that our module has under that name.
_SAME = (
  'split_embed_dim_list',
  'model_channels',
  'num_res_blocks',
  'attention_resolutions',
  'channel_mult',
  'conv_resample',
  'num_classes',
  'use_embed',
  'num_heads',
  'num_head_channels',
  'num_heads_upsample',
  'use_scale_shift_norm',
  'resblock_updown',
  'use_new_attention_order',
  'use_spatial_transformer',
  'transformer_depth',
  'context_dim',
  'n_embed',
  'legacy',
  'num_stage',
  'use_split_head',
  'use_mscond',
  'use_pos_embed',
  'use_stage_expert',
  'image_size',
  'out_channels',
  'dropout',
)

# Arguments with a single value that we can follow, and why.
_FIXED = {
  'dims': (2, 'maps have two dimensions'),
  'use_fp16': (False, 'the official conversion to float16 is a stub'),
}

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
  """Returns official key and kind of a parameter of `pyunet.PyUNet`."""
  *modules, leaf = path
  parts = []
  for part in modules:
    for pattern, replacement in _PARTS:
      part = re.sub(pattern, replacement, part)
    parts.append(part)
  key = '.'.join(parts)
  if leaf == 'bias':
    return f'{key}.bias', 'bias'
  if leaf not in ('kernel', 'scale', 'embedding'):  # ours, not in the original
    return f'{key}.{leaf}', 'raw'
  return f'{key}.weight', _kind(modules[-1], leaf)


def _kind(module: str, leaf: str) -> str:
  if leaf == 'scale':
    return 'norm'
  if leaf == 'embedding':
    return 'embedding'
  if module in _CONV_1X1:
    return 'conv1x1'
  if module in _CONV_1D:
    return 'conv1d'
  return 'linear' if _LINEAR.fullmatch(module) else 'conv'


def build(config: Mapping[str, Any]) -> pyunet.PyUNet:
  """Returns the network of an official constructor's arguments.

  Raises:
    Unsupported: an unknown argument, or a value that we or the official code
      do not run.
  """
  fields = {k: v for k, v in config.items() if k in _SAME}
  fields['use_spade_norm'] = config.get('use_SPADE_norm', False)
  handled = {'use_SPADE_norm', 'in_channels', 'use_checkpoint'}
  for name, (allowed, why) in _FIXED.items():
    if config.get(name, allowed) != allowed:
      raise families.Unsupported(
        f'{name} = {config[name]!r}; allowed: {allowed!r} ({why}).'
      )
  unknown = sorted(set(config) - set(_SAME) - set(_FIXED) - handled)
  if unknown:
    raise families.Unsupported(f'unknown arguments of PyUNetModel: {unknown}')
  split = config.get('split_embed_dim_list', ())
  channels = config.get('in_channels')
  if config.get('use_split_head') and channels not in (None, sum(split)):
    raise families.Unsupported(
      f'split_embed_dim_list {list(split)} does not add up to in_channels = '
      f'{channels}.'
    )
  network = pyunet.PyUNet(**fields)
  try:
    network.check_options()
  except ValueError as error:
    raise families.Unsupported(str(error)) from error
  return network


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes y_s, middle_s and pre_input_s of every recorded scale s.

  Raises:
    Unsupported: see `build`, or an output of another name.
    ValueError: options that contradict each other, an incomplete state dict.
  """
  network = build(case.config)
  stages = sorted({_output(name)[1] for name in case.expected})
  inputs = _inputs(case, network)
  template = jax.eval_shape(
    lambda: network.init(jax.random.key(0), **inputs, stage=stages[0])
  )
  params, report = mapping.to_flax(case.state, template['params'], rename)
  report.require_complete()
  outputs = {}
  for stage in stages:
    computed = _run_stage(network, params, inputs, stage)
    for name in case.expected:
      part, of = _output(name)
      if of == stage and part not in computed:
        raise families.Unsupported(f'{name}: the network has no such part.')
      if of == stage:
        outputs[name] = computed[part].transpose(0, 3, 1, 2)
  return outputs


def _output(name: str) -> tuple[str, int]:
  match = re.fullmatch(r'(y|middle|pre_input)_(\d+)', name)
  if not match:
    raise families.Unsupported(f'unknown output {name!r} of frido.pyunet.')
  return match[1], int(match[2])


def _inputs(case: families.Case, network: pyunet.PyUNet) -> dict[str, Any]:
  inputs = {
    'x': case.inputs['x'].transpose(0, 2, 3, 1),
    't': case.inputs['timesteps'],
  }
  # The official forward pass ignores a context that nothing reads.
  if 'context' in case.inputs and network.use_spatial_transformer:
    inputs['context'] = case.inputs['context']
  if 'y' in case.inputs:
    inputs['y'] = case.inputs['y']
  return inputs


def _run_stage(
  network: pyunet.PyUNet,
  params: Any,
  inputs: Mapping[str, np.ndarray],
  stage: int,
) -> dict[str, np.ndarray]:
  expert = f'_expert_{stage}' if network.use_stage_expert else ''
  parts = {
    f'middle_block{expert}_2': 'middle',
    f'pre_input_blocks_{stage}_0': 'pre_input',
  }

  def apply(params, inputs):
    return network.apply(
      {'params': params},
      **inputs,
      stage=stage,
      capture_intermediates=lambda module, _: module.name in parts,
      mutable=['intermediates'],
    )

  y, taken = jax.jit(apply)(params, inputs)
  computed = {
    part: taken['intermediates'][module]['__call__'][0]
    for module, part in parts.items()
    if module in taken['intermediates']
  }
  return {k: np.asarray(v) for k, v in ({'y': y} | computed).items()}
