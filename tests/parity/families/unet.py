"""Family `ldm.unet`: the denoiser of LDM.

CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py,
UNetModel. What Frido's network shares with it is here too.
"""

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
import re
from typing import Any
from typing import TypeVar

import jax
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import unet as names
from pyramid_jax.networks import unet
from pyramid_jax.networks import unet_trunk
from tests.parity import families


Network = TypeVar('Network', bound=unet_trunk.Trunk)


# Arguments of both official constructors that `unet_trunk.Trunk` has under
# that name.
TRUNK = (
  'model_channels',
  'num_res_blocks',
  'attention_resolutions',
  'channel_mult',
  'conv_resample',
  'num_classes',
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
  'out_channels',
  'dropout',
)


# Arguments with a single value that we can follow, and why.
_FIXED = {
  'dims': (2, 'maps have two dimensions'),
  'use_pos_embed': (False, 'published networks have no positions'),
  'use_fp16': (False, 'the official conversion to float16 is a stub'),
}


def fields(
  name: str,
  config: Mapping[str, Any],
  same: Iterable[str],
  handled: Collection[str],
) -> dict[str, Any]:
  """Returns the arguments of an official constructor that are ours as well.

  Args:
    name: of the official class.
    config: its arguments.
    same: arguments that are fields of ours.
    handled: arguments that the caller deals with.

  Raises:
    Unsupported: an unknown argument, or a value that we or the official code
      do not run.
  """
  same = tuple(same)
  for argument, (allowed, why) in _FIXED.items():
    if config.get(argument, allowed) != allowed:
      raise families.Unsupported(
        f'{argument} = {config[argument]!r}; allowed: {allowed!r} ({why}).'
      )
  unknown = sorted(set(config) - {*same, *_FIXED, *handled})
  if unknown:
    raise families.Unsupported(f'unknown arguments of {name}: {unknown}')
  return {key: value for key, value in config.items() if key in same}


def checked(network: Network) -> Network:
  """Returns the network if its options agree, else raises Unsupported."""
  try:
    network.check_options()
  except ValueError as error:
    raise families.Unsupported(str(error)) from error
  return network


def inputs(case: families.Case, network: unet_trunk.Trunk) -> dict[str, Any]:
  """Returns the arguments of a recorded call, in our layout."""
  arguments = {
    'x': case.inputs['x'].transpose(0, 2, 3, 1),
    't': case.inputs['timesteps'],
  }
  # The official forward pass ignores a context that nothing reads.
  if 'context' in case.inputs and network.use_spatial_transformer:
    arguments['context'] = case.inputs['context']
  if 'y' in case.inputs:
    arguments['y'] = case.inputs['y']
  return arguments


def build(config: Mapping[str, Any]) -> unet.UNet:
  """Returns the network of an official constructor's arguments.

  Raises:
    Unsupported: see `fields` and `checked`.
  """
  same = (*TRUNK, 'in_channels')
  handled = {'image_size', 'use_checkpoint'}  # change no number
  mult = config.get('channel_mult', (1,))
  if mult[0] != 1:  # the last layer is as wide as if it were
    raise families.Unsupported(
      f'channel_mult must start with 1; got channel_mult = {list(mult)}'
    )
  return checked(unet.UNet(**fields('UNetModel', config, same, handled)))


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes y and the outputs of the parts that are named.

  These are time_embed, label_emb, middle_block and input_blocks_N and
  output_blocks_N, where N is a number or 'last'.

  Raises:
    Unsupported: see `build`, or an output of another name.
    ValueError: options that contradict each other, an incomplete state dict.
  """
  network = build(case.config)
  arguments = inputs(case, network)
  template = jax.eval_shape(
    lambda: network.init(jax.random.key(0), **arguments)
  )
  params, report = mapping.to_flax(case.state, template['params'], names.rename)
  report.require_complete()

  def apply(params, arguments):
    return network.apply(
      {'params': params},
      **arguments,
      capture_intermediates=lambda module, method: (
        len(module.path) == 1 and method == '__call__'
      ),
      mutable=['intermediates'],
    )

  y, taken = jax.jit(apply)(params, arguments)
  parts = _last_of_entries(
    {
      name: values['__call__'][0]
      for name, values in taken['intermediates'].items()
      if '__call__' in values
    }
  ) | {'y': y}
  unknown = sorted(set(case.expected) - set(parts))
  if unknown:
    raise families.Unsupported(f'unknown outputs of ldm.unet: {unknown}')
  return {name: _official(parts[name]) for name in case.expected}


def _last_of_entries(modules: Mapping[str, Any]) -> dict[str, Any]:
  """Renames 'input_blocks_3_1' to 'input_blocks_3': an entry ends in it."""
  parts, last = {}, {}
  for name in sorted(modules, key=_numbers):
    entry = re.sub(r'_\d+$', '', name)
    parts[entry] = modules[name]
    if block := re.fullmatch(r'(input|output)_blocks_\d+', entry):
      last[f'{block[1]}_blocks_last'] = modules[name]
  return parts | last


def _numbers(name: str) -> tuple[int, ...]:
  return tuple(int(number) for number in re.findall(r'\d+', name))


def _official(value: jax.Array) -> np.ndarray:
  array = np.asarray(value)
  return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
