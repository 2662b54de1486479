"""Families `ldm.ddim`, `ldm.plms` and `ldm.ddpm`.

CompVis/latent-diffusion: ldm/models/diffusion/{ddim,plms,ddpm}.py around a
U-Net, run through the library's one sampler, its stages and its loss.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.solvers import base as solver_lib
from pyramid_jax.diffusion.solvers import ddpm
from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import unet as unet_names
from pyramid_jax.networks import unet as unet_lib
from pyramid_jax.systems import ldm
from tests.parity import families
from tests.parity.families import chains
from tests.parity.families import unet as unet_family


# Arguments of LatentDiffusion that we follow; the chain has its own.
_OPTIONS: dict[str, Any] = {
  'clip_denoised': False,
  'parameterization': 'eps',
  'loss_type': 'l2',
  'l_simple_weight': 1.0,
  'original_elbo_weight': 0.0,
  'learn_logvar': False,
  'logvar_init': 0.0,
}
_PARAMETERIZATIONS = ('eps', 'x0')
_DISCRETIZE = {'uniform': 'official', 'quad': 'quad'}
_COMMON = ('batch_size', 'shape', 'temperature', 'log_every_t', 'verbose')
_SAMPLER = {
  'ldm.ddim': (
    'S',
    'eta',
    'unconditional_guidance_scale',
    'ddim_discretize',
    'noise_dropout',
    'quantize_x0',
  ),
  'ldm.ddpm': ('timesteps', 'start_T', 'clip_denoised', 'quantize_denoised'),
}
_SAMPLER['ldm.plms'] = _SAMPLER['ldm.ddim']
# Values of the sampler's arguments that need what no file holds.
_ONLY = {'noise_dropout': 0.0, 'quantize_x0': False, 'quantize_denoised': False}
# conditioning_key -> where the U-Net takes it, and names it may have.
_TOKENS = ('c_crossattn', 'context')
_MAPS = ('c_concat', 'concat')
_CONDITIONS: dict[str | None, dict[str, tuple[str, ...]]] = {
  None: {},
  'crossattn': {'context': _TOKENS},
  'concat': {'concat': (*_MAPS, 'context')},
  'hybrid': {'context': _TOKENS, 'concat': _MAPS},
  'adm': {'y': ('y', *_TOKENS)},  # a class beside the level, as ADM has it
}
_NULL = 'unconditional_'
_INPUTS = {
  'x_T',
  'noise',
  'mask',
  'x0',
  'mask_noise',
  'x_start',
  't',
  'loss_noise',
  'logvar',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Model:
  """What a case describes."""

  unet: unet_lib.UNet
  params: Any
  chain: schedules.Chain
  options: Mapping[str, Any]
  sampler: Mapping[str, Any]
  cond: condition_lib.Inputs
  null: condition_lib.Inputs | None


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes the recorded outputs of any of the families.

  Raises:
    Unsupported: an option or an input that we do not have.
    ValueError: an incomplete state dict.
    KeyError: an input that the config needs is not there.
  """
  model = _build(case)
  if case.family == 'ldm.ddpm':
    outputs = _ancestral(case, model)
    if 'x_start' in case.inputs:
      outputs |= _loss(case, model)
    return outputs
  return _ddim(case, model)


def _build(case: families.Case) -> _Model:
  config = dict(case.config)
  unet = unet_family.build(config.pop('unet_config'))
  sampler = config.pop('sampler', {})
  key = config.pop('conditioning_key', None)
  arguments = config.pop('diffusion', {}) | config
  known = chains.ARGUMENTS.keys() | _OPTIONS.keys()
  unknown = sorted(arguments.keys() - known)
  unknown += sorted(sampler.keys() - {*_COMMON, *_SAMPLER[case.family]})
  if unknown:
    raise families.Unsupported(f'unknown arguments: {unknown}')
  for name, value in _ONLY.items():
    if sampler.get(name, value) != value:
      raise families.Unsupported(
        f'{name} = {sampler[name]!r}; supported: {value!r}'
      )
  options = _OPTIONS | {k: arguments[k] for k in arguments if k in _OPTIONS}
  if options['parameterization'] not in _PARAMETERIZATIONS:
    raise families.Unsupported(
      f'parameterization {options["parameterization"]!r}; supported:'
      f' {_PARAMETERIZATIONS}'
    )
  if key not in _CONDITIONS:
    raise families.Unsupported(f'conditioning_key {key!r}')
  _check_inputs(case, key)
  cond = _condition(case, key, '')
  has_null = any(name.startswith(_NULL) for name in case.inputs)
  return _Model(
    unet=unet,
    params=_load(case, unet, cond),
    chain=chains.build(arguments),
    options=options,
    sampler=sampler,
    cond=cond,
    null=_condition(case, key, _NULL) if has_null else None,
  )


def _check_inputs(case: families.Case, key: str | None) -> None:
  """Refuses inputs that nothing would read."""
  names = {n for group in _CONDITIONS[key].values() for n in group}
  names |= {_NULL + name for name in names}
  unknown = sorted(case.inputs.keys() - _INPUTS - names)
  if unknown:
    raise families.Unsupported(f'{case.family} with inputs {unknown}')


def _condition(
  case: families.Case, key: str | None, prefix: str
) -> condition_lib.Inputs:
  """Returns the condition that the U-Net is given.

  Raises:
    KeyError: it is not there.
  """
  found: dict[str, Any] = {}
  for place, names in _CONDITIONS[key].items():
    here = [prefix + n for n in names if prefix + n in case.inputs]
    if not here:
      raise KeyError(prefix + names[-1])
    value = case.inputs[here[0]]
    found[place] = jnp.asarray(
      chains.nhwc(value) if place == 'concat' else value
    )
  return condition_lib.Inputs(**found)


def _load(
  case: families.Case, unet: unet_lib.UNet, cond: condition_lib.Inputs
) -> Any:
  """Returns the weights."""
  first = 'x_T' if 'x_T' in case.inputs else 'x_start'
  x = jnp.asarray(chains.nhwc(case.inputs[first]))
  if cond.concat is not None:
    x = jnp.concatenate([x, cond.concat], axis=-1)
  template = jax.eval_shape(
    lambda: unet.init(
      jax.random.key(0), x, jnp.zeros((1,)), cond.context, cond.y
    )
  )
  params, report = mapping.to_flax(
    case.state, template['params'], unet_names.rename
  )
  report.require_complete()
  return params


def _ddim(case: families.Case, model: _Model) -> dict[str, np.ndarray]:
  sampler = model.sampler
  eta = float(sampler.get('eta', 0.0))
  if eta and 'noise' not in case.inputs:
    raise families.Unsupported(f'eta = {eta} without recorded noise')
  discretize = sampler.get('ddim_discretize', 'uniform')
  if discretize not in _DISCRETIZE:
    raise families.Unsupported(f'ddim_discretize {discretize!r}')
  try:
    solver = solvers.create(
      case.family.removeprefix('ldm.'),
      eta=eta,
      temperature=float(sampler.get('temperature', 1.0)) if eta else 1.0,
    )
    levels = timesteps.spaced_levels(
      model.chain, int(sampler['S']), _DISCRETIZE[discretize]
    )
  except ValueError as error:
    raise families.Unsupported(str(error)) from error
  outputs = chains.buffers(model.chain)
  outputs |= chains.ddim_tables(model.chain, levels, eta)
  # These samplers read every output as noise, whatever it was trained for.
  return outputs | _sample(case, model, solver, levels, 'eps')


def _ancestral(case: families.Case, model: _Model) -> dict[str, np.ndarray]:
  sampler = model.sampler
  if 'mask' in case.inputs:
    raise families.Unsupported(
      'a mask in ancestral sampling, which noises to the level before the step'
    )
  length = model.chain.length
  count = sampler.get('timesteps') or length
  count = min(count, sampler.get('start_T') or count)
  if not 1 <= count <= length:
    raise families.Unsupported(f'{count} of {length} time steps')
  options = {**model.options, **sampler}
  solver = ddpm.DDPM(
    temperature=float(sampler.get('temperature', 1.0)),
    clip=bool(options['clip_denoised']),
  )
  levels = timesteps.levels(model.chain, np.arange(count), 1.0)
  outputs = chains.buffers(model.chain)
  outputs['lvlb_weights'] = model.chain.loss_weights(
    model.options['parameterization']
  )
  return outputs | _sample(
    case, model, solver, levels, model.options['parameterization']
  )


def _sample(
  case: families.Case,
  model: _Model,
  solver: solver_lib.Solver,
  levels: levels_lib.Levels,
  parameterization: str,
) -> dict[str, np.ndarray]:
  """Runs the sampler and names its steps."""
  arrays = {
    name: jnp.asarray(chains.nhwc(case.inputs[name]))
    for name in ('x_T', 'noise', 'mask', 'x0', 'mask_noise')
    if name in case.inputs
  }
  scale = float(model.sampler.get('unconditional_guidance_scale', 1.0))
  guidance = None if scale == 1 else classifier_free.Guidance(scale)

  def sample(params, cond, null, arrays):
    stage = ldm.denoiser(model.unet, params, parameterization).guided(
      levels,
      condition_lib.Condition(context=cond, null=null),
      arrays['x_T'].shape,
      guidance,
    )
    if 'mask' in arrays:
      # Some masks are recorded with the latent's channels, all equal.
      mask = arrays['mask'][..., :1]
      stage = editing.masked(stage, arrays['x0'], mask)
    noise = sampling.Noise.recorded(
      *(_listed(arrays, n) for n in ('x_T', 'noise', 'mask_noise'))
    )
    return sampling.run([stage], solver, noise, trace=True)

  (x,), (trace,) = jax.jit(sample)(model.params, model.cond, model.null, arrays)
  every = jnp.concatenate([arrays['x_T'][None], trace.x])
  return {
    'x_t': chains.nchw(every),
    'pred_x0': chains.nchw(trace.x0),
    'x0': chains.nchw(x),
  }


def _listed(arrays: Mapping[str, jax.Array], name: str) -> list[jax.Array]:
  return [arrays[name]] if name in arrays else []


def _loss(case: families.Case, model: _Model) -> dict[str, np.ndarray]:
  """The training loss and its gradients at recorded noise."""
  options = model.options
  try:
    settings = gaussian.LossSettings(
      loss_type=options['loss_type'],
      parameterization=options['parameterization'],
      simple_weight=float(options['l_simple_weight']),
      elbo_weight=float(options['original_elbo_weight']),
    )
  except ValueError as error:
    raise families.Unsupported(str(error)) from error
  x0, eps = (
    jnp.asarray(chains.nhwc(case.inputs[n])) for n in ('x_start', 'loss_noise')
  )
  t = jnp.asarray(case.inputs['t'])
  logvar = jnp.full((model.chain.length,), float(options['logvar_init']))
  logvar = jnp.asarray(case.inputs.get('logvar', logvar))

  def total(params):
    calls = []

    def denoiser(x, t):
      y = ldm.predict(model.unet, {'params': params}, x, t, model.cond)
      calls.append((x, y))
      return y

    loss, metrics = gaussian.loss(
      denoiser, model.chain, settings, x0, t, eps, logvar
    )
    return loss, (metrics, calls[0])

  (loss, (metrics, (x, y))), grads = jax.jit(
    jax.value_and_grad(total, has_aux=True)
  )(model.params)
  outputs = {name: np.asarray(value) for name, value in metrics.items()}
  outputs |= {
    'loss': np.asarray(loss),
    'x_noisy': chains.nchw(x),
    'model_output': chains.nchw(y),
  }
  for key, value in mapping.to_official(grads, unet_names.rename).items():
    outputs[f'grad/{key}'] = value
  return outputs
