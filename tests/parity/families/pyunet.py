"""The denoiser of Frido: official keys and recorded runs.

davidhalladay/Frido: frido/modules/diffusionmodules/pyunet.py, PyUNetModel.
"""

from collections.abc import Mapping
import re
from typing import Any

import jax
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import unet as names
from pyramid_jax.networks import pyunet
from tests.parity import families
from tests.parity.families import unet


# Arguments of the official constructor that our module has under that name.
_SAME = (
  *unet.TRUNK,
  'split_embed_dim_list',
  'num_stage',
  'use_mscond',
  'use_stage_expert',
)


def build(config: Mapping[str, Any]) -> pyunet.PyUNet:
  """Returns the network of an official constructor's arguments.

  Raises:
    Unsupported: an unknown argument, or a value that we or the official code
      do not run.
  """
  handled = {
    'use_SPADE_norm',
    'use_split_head',
    'use_embed',
    'in_channels',
    'image_size',
    'use_checkpoint',
  }
  fields = unet.fields('PyUNetModel', config, _SAME, handled)
  fields['use_spade_norm'] = config.get('use_SPADE_norm', False)
  for name in ('use_split_head', 'use_embed'):
    fields[name] = config.get(name, False)
  split = config.get('split_embed_dim_list', ())
  channels = config.get('in_channels')
  if config.get('use_split_head') and channels not in (None, sum(split)):
    raise families.Unsupported(
      f'split_embed_dim_list {list(split)} does not add up to in_channels = '
      f'{channels}.'
    )
  return unet.checked(pyunet.PyUNet(**fields))


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes y_s, middle_s and pre_input_s of every recorded scale s.

  Raises:
    Unsupported: see `build`, or an output of another name.
    ValueError: options that contradict each other, an incomplete state dict.
  """
  network = build(case.config)
  stages = sorted({_output(name)[1] for name in case.expected})
  inputs = unet.inputs(case, network)
  template = jax.eval_shape(
    lambda: network.init(jax.random.key(0), **inputs, stage=stages[0])
  )
  params, report = mapping.to_flax(case.state, template['params'], names.rename)
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


def _run_stage(
  network: pyunet.PyUNet,
  params: Any,
  inputs: Mapping[str, np.ndarray],
  stage: int,
) -> dict[str, np.ndarray]:
  expert = network.suffix(stage)
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
