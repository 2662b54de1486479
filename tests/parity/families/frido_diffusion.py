"""Families `frido.sampler` and `frido.training_loss`.

davidhalladay/Frido: frido/models/diffusion/{ddim,plms,frido}.py, run through
the library's one sampler and the system's own loss.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.solvers import base as solver_lib
from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import unet as unet_names
from pyramid_jax.networks import pyunet
from pyramid_jax.networks.layers import resampling
from pyramid_jax.systems import frido
from tests.parity import families
from tests.parity.families import chains
from tests.parity.families import pyunet as pyunet_family


# Arguments of FridoDiffusion that we follow at these values only.
_FIXED: dict[str, Any] = {
  'v_posterior': 0.0,
  'l_simple_weight': 1.0,
  'original_elbo_weight': 0.0,
  'logvar_init': 0.0,
  'learn_logvar': False,
  'clip_denoised': False,
}
_PARAMETERIZATIONS = ('eps', 'x0')
_SAMPLER = {
  'kind',
  'S',
  'eta',
  'unconditional_guidance_scale',
  'batch_size',
  'shape',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Model:
  """What both families build from a case."""

  unet: pyunet.PyUNet
  params: Any
  chain: schedules.Chain
  channels: tuple[int, ...]

  def split(self, x: np.ndarray) -> list[jax.Array]:
    """Splits NCHW into the scales, each (B, H, W, C)."""
    places = np.cumsum(self.channels)[:-1]
    return jnp.split(jnp.asarray(x.transpose(0, 2, 3, 1)), places, axis=-1)

  def context(
    self, inputs: Mapping[str, np.ndarray], name: str
  ) -> jax.Array | None:
    """Returns an input if it is there and the network reads one."""
    if name not in inputs or not self.unet.use_spatial_transformer:
      return None
    return jnp.asarray(inputs[name])


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes the recorded outputs of either family.

  Raises:
    Unsupported: an option that we do not have.
    ValueError: an incomplete state dict.
  """
  if case.family == 'frido.sampler':
    return _run_sampler(case)
  return _run_loss(case)


def _run_sampler(case: families.Case) -> dict[str, np.ndarray]:
  config = dict(case.config)
  sampler = config.pop('sampler')
  unknown = sorted(sampler.keys() - _SAMPLER)
  if unknown:
    raise families.Unsupported(f'unknown arguments of the sampler: {unknown}')
  if config.get('parameterization', 'eps') != 'eps':
    raise families.Unsupported(
      f'parameterization {config["parameterization"]!r} in the sampler, which'
      ' reads every output as noise'
    )
  _check_arguments(config, {'parameterization'})
  noises = [f'noise_{s}' for s in range(len(config['embed_dim_list']))]
  _check_inputs(case, ['noise_T', 'context', 'unconditional_context', *noises])
  solver, steps = _solver(sampler), int(sampler['S'])
  eta = float(sampler.get('eta', 0.0))
  if eta and noises[0] not in case.inputs:
    raise families.Unsupported(f'eta = {eta} without recorded noise')
  chain = chains.build(config['diffusion'])
  try:
    levels = timesteps.spaced_levels(chain, steps, 'official')
  except ValueError as error:
    raise families.Unsupported(str(error)) from error
  model = _build(case, config, chain)
  initial = model.split(case.inputs['noise_T'])
  context, null = (
    model.context(case.inputs, name)
    for name in ('context', 'unconditional_context')
  )
  recorded: tuple[jax.Array, ...] = ()
  if noises[0] in case.inputs:
    recorded = tuple(
      _last_channels(case.inputs[name], c)
      for name, c in zip(noises, model.channels, strict=True)
    )

  scale = float(sampler.get('unconditional_guidance_scale', 1.0))

  def sample(params, initial, recorded, context, null):
    condition = condition_lib.Condition(
      context=condition_lib.Inputs(context=context),
      null=None if null is None else condition_lib.Inputs(context=null),
    )
    guidance = None if scale == 1 else classifier_free.Guidance(scale)
    last = len(initial) - 1
    stages = [
      frido.denoiser(model.unet, params, s, 2 ** (last - s)).guided(
        levels, condition, x.shape, guidance
      )
      for s, x in enumerate(initial)
    ]
    noise = sampling.Noise.recorded(initial, recorded)
    return sampling.run(stages, solver, noise, trace=True)

  state, traces = jax.jit(sample)(
    model.params, tuple(initial), recorded, context, null
  )
  outputs = chains.buffers(model.chain) | chains.ddim_tables(chain, levels, eta)
  return outputs | _steps(initial, state, traces)


def _solver(sampler: Mapping[str, Any]) -> solver_lib.Solver:
  kind = sampler['kind']
  if kind not in ('ddim', 'plms'):
    raise families.Unsupported(f'sampler {kind!r}; supported: ddim, plms')
  try:
    return solvers.create(kind, eta=float(sampler.get('eta', 0.0)))
  except ValueError as error:
    raise families.Unsupported(str(error)) from error


def _steps(
  initial: Sequence[jax.Array],
  state: Sequence[jax.Array],
  traces: Sequence[sampling.Trace],
) -> dict[str, np.ndarray]:
  """Names every step, with the finished scales in front (fine grid)."""
  _, height, width, _ = initial[-1].shape
  finished = [resampling.nearest(z, (height, width)) for z in state]
  outputs = {}
  for s, trace in enumerate(traces):
    known = finished[:s]
    count = trace.x.shape[0]
    repeated = [jnp.broadcast_to(z, (count, *z.shape)) for z in known]
    first = chains.nchw(jnp.concatenate([*known, initial[s]], -1))
    outputs[f'x_first_in_{s}'] = first
    if s:
      outputs[f'stage_final_{s - 1}'] = first
    outputs[f'x_t_{s}'] = chains.nchw(jnp.concatenate([*repeated, trace.x], -1))
    outputs[f'pred_x0_{s}'] = chains.nchw(
      jnp.concatenate([*repeated, trace.x0], -1)
    )
  latent = chains.nchw(jnp.concatenate(finished, -1))
  return outputs | {f'stage_final_{len(traces) - 1}': latent, 'latent': latent}


def _run_loss(case: families.Case) -> dict[str, np.ndarray]:
  config = dict(case.config)
  parameterization = config.get('parameterization', 'eps')
  if parameterization not in _PARAMETERIZATIONS:
    raise families.Unsupported(
      f'parameterization {parameterization!r}; supported: {_PARAMETERIZATIONS}'
    )
  own = {
    'parameterization',
    'loss_type',
    'noise_mix_ratio',
    'stage_loss_ratio',
  }
  _check_arguments(config, own)
  _check_inputs(case, ['x_start', 'noise', 't', 'context'])
  model = _build(case, config, chains.build(config['diffusion']))
  scales = len(model.channels)
  ratio = config.get('stage_loss_ratio') or [0.5] * scales
  if len(ratio) != scales:
    raise families.Unsupported(f'stage_loss_ratio {ratio} of {scales} scales')
  settings = frido.LossSettings(
    loss_type=config.get('loss_type', 'l2'),
    noise_mix_ratio=float(config.get('noise_mix_ratio', 0.0)),
    stage_loss_ratio=tuple(ratio),
    parameterization=parameterization,
  )
  zs, noise = (model.split(case.inputs[name]) for name in ('x_start', 'noise'))
  t = jnp.asarray(case.inputs['t'])
  context = model.context(case.inputs, 'context')

  def total(params):
    calls = []

    def denoiser(x, t, s):
      y = model.unet.apply({'params': params}, x, t, context, stage=s)
      calls.append((jnp.concatenate([x, *noise[s + 1 :]], -1), y))
      return y

    # The recorded run draws one tensor for all scales.
    noises = [noise[: s + 1] for s in range(scales)]
    loss, metrics = frido.diffusion_loss(
      denoiser, model.chain, settings, zs, t, noises
    )
    return loss, (metrics, calls)

  grads = {}
  if any(name.startswith('grad/') for name in case.expected):
    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (loss, (metrics, calls)), grads = run(model.params)
  else:
    loss, (metrics, calls) = jax.jit(total)(model.params)
  outputs = {
    'total': np.asarray(loss),
    'lvlb_weights': model.chain.loss_weights(parameterization),
  }
  outputs |= {name: np.asarray(value) for name, value in metrics.items()}
  for s, (x, y) in enumerate(calls):
    outputs[f'x_noisy_{s}'] = chains.nchw(x)
    outputs[f'model_output_{s}'] = chains.nchw(y)
  for key, value in mapping.to_official(grads, unet_names.rename).items():
    outputs[f'grad/{key}'] = value
  return outputs


def _check_arguments(config: Mapping[str, Any], own: set[str]) -> None:
  """Refuses arguments that we do not follow."""
  for name, value in _FIXED.items():
    if config.get(name, value) != value:
      raise families.Unsupported(
        f'{name} = {config[name]!r}; supported: {value!r}'
      )
  known = {'unet_config', 'diffusion', 'embed_dim_list', 'num_stage'}
  unknown = sorted(config.keys() - known - own - _FIXED.keys())
  unknown += sorted(config['diffusion'].keys() - chains.ARGUMENTS.keys())
  if unknown:
    raise families.Unsupported(f'unknown arguments: {unknown}')
  channels = list(config['embed_dim_list'])
  unet_config = config['unet_config']
  if not unet_config.get('use_split_head', False):
    raise families.Unsupported('use_split_head = False: one head for all')
  if list(unet_config['split_embed_dim_list']) != channels or config.get(
    'num_stage', len(channels)
  ) != len(channels):
    raise families.Unsupported(
      f'embed_dim_list {channels} does not agree with split_embed_dim_list'
      f' {unet_config["split_embed_dim_list"]} or num_stage'
    )


def _build(
  case: families.Case, config: Mapping[str, Any], chain: schedules.Chain
) -> _Model:
  """Builds the network and loads its weights."""
  channels = tuple(config['embed_dim_list'])
  unet = pyunet_family.build(config['unet_config'])
  x = jax.ShapeDtypeStruct((1, 8, 8, sum(channels)), jnp.float32)
  t = jax.ShapeDtypeStruct((1,), jnp.float32)
  context = None
  if unet.use_spatial_transformer and 'context' in case.inputs:
    shape = (1, *case.inputs['context'].shape[1:])
    context = jax.ShapeDtypeStruct(shape, jnp.float32)
  template = jax.eval_shape(
    lambda x, t, c: unet.init(jax.random.key(0), x, t, c, stage=0),
    x,
    t,
    context,
  )
  params, report = mapping.to_flax(
    case.state, template['params'], unet_names.rename
  )
  report.require_complete()
  return _Model(unet=unet, params=params, chain=chain, channels=channels)


def _check_inputs(case: families.Case, known: Sequence[str]) -> None:
  unknown = sorted(case.inputs.keys() - set(known))
  if unknown:
    raise families.Unsupported(f'{case.family} with inputs {unknown}')


def _last_channels(x: np.ndarray, count: int) -> jax.Array:
  """(S, B, C, H, W) -> (S, B, H, W, count), the current scale's."""
  return jnp.asarray(np.moveaxis(x[:, :, -count:], 2, -1))
