"""Family `diffit.latent`: NVlabs/DiffiT: diffit/diffit.py, DiffiT."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import latent_diffit as names
from pyramid_jax.networks import latent_diffit
from tests.parity import families


Network = latent_diffit.LatentDiffiT


# Arguments of the official constructor that are fields of ours.
_SAME = (
  'input_size',
  'patch_size',
  'in_channels',
  'hidden_size',
  'depth',
  'num_heads',
  'mlp_ratio',
  'class_dropout_prob',
  'num_classes',
  'learn_sigma',
)


# Accepted there without any effect.
_IGNORED = {'enable_mask', 'mask_ratio', 'decode_layer'}


# Of the guided call.
_GUIDANCE = {'cfg_scale', 'scale_pow', 'diffusion_steps'}


_OFFICIAL_DEPTH = 30  # of the class; its factory says 28


_LARGEST_SCHEDULED = 32  # side of the latents whose guidance has a schedule


def shapes(network: Network) -> Any:
  """Returns the shapes of the parameters of a network."""
  arguments = (jax.random.key(0), *names.nothing(network))
  return jax.eval_shape(network.init, *arguments)['params']


def build(config: Mapping[str, Any]) -> Network:
  """Returns the network of an official constructor's arguments.

  Raises:
    Unsupported: an unknown argument, or options that contradict each other.
  """
  unknown = sorted(set(config) - {*_SAME, *_IGNORED, *_GUIDANCE})
  if unknown:
    raise families.Unsupported(f'unknown arguments of DiffiT: {unknown}')
  fields = {'depth': _OFFICIAL_DEPTH} | {
    name: value for name, value in config.items() if name in _SAME
  }
  network = Network(**fields, scan=False)
  try:
    network.check_options()
  except ValueError as error:
    raise families.Unsupported(str(error)) from error
  return network


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes out, tokens, cond, blockN of the N-th block, and cfg_out.

  Raises:
    Unsupported: see `build`, or an output of another name.
    ValueError: an incomplete state dict, or other constants in it.
  """
  network = build(case.config)
  params, report = mapping.to_flax(case.state, shapes(network), names.rename)
  report.require_complete()
  for name, want in names.buffers(params).items():
    if not np.array_equal(case.state.get(name, want), want):
      raise ValueError(f'{name} is not the table of this size')

  def apply(params, x, t, y):
    return network.apply(
      {'params': params},
      x,
      t,
      y,
      capture_intermediates=lambda module, method: (
        len(module.path) == 1 and method == '__call__'
      ),
      mutable=['intermediates'],
    )

  apply = jax.jit(apply)
  x = case.inputs['x'].transpose(0, 2, 3, 1)
  out, taken = apply(params, x, case.inputs['t'], case.inputs['y'])
  taken = taken['intermediates']
  outputs = {'out': np.asarray(out).transpose(0, 3, 1, 2)}
  outputs |= {name: np.asarray(taken[name][0]) for name in ('tokens', 'cond')}
  outputs |= {
    f'block{i}': np.asarray(taken[f'blocks_{i}']['__call__'][0])
    for i in range(network.depth)
  }
  for name, value in outputs.items():
    if name == 'tokens' or name.startswith('block'):
      outputs[name] = value.reshape(len(value), -1, value.shape[-1])
  if 'cfg_out' in case.expected:
    call = lambda *inputs: np.asarray(apply(params, *inputs)[0])
    outputs['cfg_out'] = _guided_run(case, network, call)
  unknown = sorted(set(case.expected) - set(outputs))
  if unknown:
    raise families.Unsupported(f'unknown outputs of diffit.latent: {unknown}')
  return {name: outputs[name] for name in case.expected}


def _guided_run(
  case: families.Case,
  network: Network,
  call: Callable[..., np.ndarray],
) -> np.ndarray:
  """Returns (K, 2B, C, H, W), the official guided call at K levels."""
  config, labels = case.config, case.inputs['cfg_y']
  scale = config.get('cfg_scale')
  half = case.inputs['cfg_x'].transpose(0, 2, 3, 1)
  if scale is not None:  # both passes see the first half of the batch
    half = half[: len(half) // 2]
    half = np.concatenate([half, half])
  rows = []
  for t in case.inputs['cfg_t']:
    out = call(half, np.full(len(half), t, np.float32), labels)
    if scale is not None:
      factor = scale
      if network.input_size <= _LARGEST_SCHEDULED:
        length = config.get('diffusion_steps', 1000)
        power = config.get('scale_pow', 4.0)
        factor = classifier_free.power_cosine(
          scale, jnp.float32(t / length), power
        )
      cond, null = np.split(out[..., :3], 2)
      mixed = null + factor * (cond - null)
      out = np.concatenate(
        [np.concatenate([mixed, mixed]), out[..., 3:]], axis=-1
      )
    rows.append(out.transpose(0, 3, 1, 2))
  return np.stack(rows)
