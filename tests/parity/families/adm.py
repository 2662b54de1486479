"""Family `adm.diffusion`.

openai/guided-diffusion: guided_diffusion/gaussian_diffusion.py and
facebookresearch/DiT: diffusion/gaussian_diffusion.py around an analytic
network without weights, through the library's chains, losses and sampler.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import iddpm_loss
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.solvers import ddim
from pyramid_jax.diffusion.solvers import ddpm
from tests.parity import families
from tests.parity.families import chains


# Arguments of create_gaussian_diffusion and create_diffusion, with defaults.
_COMMON: dict[str, Any] = {
  'noise_schedule': 'linear',
  'use_kl': False,
  'sigma_small': False,
  'predict_xstart': False,
  'rescale_learned_sigmas': False,
  'timestep_respacing': '',
}
_KINDS: dict[str, dict[str, Any]] = {
  'guided': {
    **_COMMON,
    'steps': 1000,
    'learn_sigma': False,
    'rescale_timesteps': False,
  },
  'dit': {**_COMMON, 'diffusion_steps': 1000, 'learn_sigma': True},
}
_COSINE = {'guided': 'cosine', 'dit': 'squaredcos_cap_v2'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Process:
  """What a case describes.

  Attributes:
    chain: the long chain.
    times: the levels of it that are kept.
    levels: of the short chain.
    settings: of the loss.
  """

  chain: schedules.Chain
  times: np.ndarray
  levels: levels_lib.Levels
  settings: iddpm_loss.LossSettings


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes the recorded outputs.

  Raises:
    Unsupported: an option that we do not have.
    KeyError: an input that is missing.
  """
  try:
    process = build(case.config)
  except families.Unsupported:
    raise
  except ValueError as error:
    raise families.Unsupported(str(error)) from error
  outputs = _tables(process)
  if 'x' in case.inputs:
    outputs |= _one_step(case, process)
  if 'x_T' in case.inputs:
    outputs |= _loops(case, process)
  return outputs


def build(config: Mapping[str, Any]) -> _Process:
  """Returns what the arguments of the official constructors describe.

  Raises:
    Unsupported: an argument or a value that we do not have.
  """
  arguments = dict(config)
  kind = arguments.pop('kind', None)
  if kind not in _KINDS:
    raise families.Unsupported(f'kind {kind!r}; known: {sorted(_KINDS)}')
  unknown = sorted(arguments.keys() - _KINDS[kind].keys())
  if unknown:
    raise families.Unsupported(f'unknown arguments: {unknown}')
  options = _KINDS[kind] | arguments
  length = options['steps' if kind == 'guided' else 'diffusion_steps']
  sections = options['timestep_respacing'] or ''
  chain = _chain(options['noise_schedule'], _COSINE[kind], length)
  return _Process(
    chain=chain,
    times=timesteps.space_timesteps(length, sections),
    levels=timesteps.respaced_levels(
      chain, sections, rescale=options.get('rescale_timesteps', False)
    ),
    settings=iddpm_loss.LossSettings(
      loss=_loss_kind(options),
      parameterization='x0' if options['predict_xstart'] else 'eps',
      variance=_variance(options),
    ),
  )


def _chain(schedule: str, cosine: str, length: int) -> schedules.Chain:
  if schedule == 'linear':
    scale = 1000 / length
    return schedules.make_chain('linear', length, scale * 1e-4, scale * 0.02)
  if schedule == cosine:
    return schedules.make_chain('cosine', length)
  raise families.Unsupported(
    f'noise_schedule {schedule!r}; known: {("linear", cosine)}'
  )


def _loss_kind(options: Mapping[str, Any]) -> str:
  if options['use_kl']:
    return 'rescaled_kl'
  return 'rescaled_mse' if options['rescale_learned_sigmas'] else 'mse'


def _variance(options: Mapping[str, Any]) -> str:
  if options['learn_sigma']:
    return 'learned_range'
  return 'fixed_small' if options['sigma_small'] else 'fixed_large'


def _tables(process: _Process) -> dict[str, np.ndarray]:
  outputs = chains.buffers(timesteps.respaced(process.chain, process.times))
  clipped = np.asarray(process.levels.log_variance)[:-1][::-1]
  return outputs | {
    'timestep_map': process.times.astype(np.int32),
    'posterior_log_variance_clipped': clipped,
  }


def _one_step(case: families.Case, process: _Process) -> dict[str, np.ndarray]:
  """Distributions and losses at one level of each example."""
  x, x0, eps, value = (
    jnp.asarray(chains.nhwc(case.inputs[name]))
    for name in ('x', 'x_start', 'noise', 'model_output')
  )
  t = jnp.asarray(case.inputs['t'])
  levels, settings = process.levels, process.settings
  level, next_level = iddpm_loss.at(levels, t)
  small = _broadcast(_posterior_variance(process)[case.inputs['t']], x)
  log = jnp.broadcast_to(level.log_variance, x.shape)
  times = np.asarray(level.time).reshape(-1)
  recorded = case.expected.get('model_timesteps', times)
  whole = np.issubdtype(recorded.dtype, np.integer)
  outputs: dict[str, Any] = {
    'model_timesteps': times.astype(np.int32) if whole else times,
    'q_sample': gaussian.q_sample(x0, eps, level.alpha, level.sigma),
    'q_mean': ddpm.posterior_mean(x0, x, level, next_level),
    'q_var': small,
    'q_log_var': log,
  }
  prediction = levels_lib.Prediction.of(
    settings.parameterization, x, value, level
  )
  for name, clip in (('clip', True), ('noclip', False)):
    clean, mean, log = ddpm.ancestral(
      prediction, x, level, next_level, settings.variance, clip
    )
    log = jnp.broadcast_to(log, x.shape)
    # The last step's variance is 0, its log is not.
    fixed = settings.variance == 'fixed_small'
    outputs |= {
      f'{name}/mean': mean,
      f'{name}/variance': small if fixed else jnp.exp(log),
      f'{name}/log_variance': log,
      f'{name}/pred_xstart': clean.x0,
    }
  images = {
    name: chains.nchw(array) if np.ndim(array) == 4 else np.asarray(array)
    for name, array in outputs.items()
  }
  losses = iddpm_loss.loss(lambda x, t: value, levels, settings, x0, t, eps)
  return (
    images
    | {f'loss/{name}': np.asarray(each) for name, each in losses.items()}
    | {'prior_bpd': np.asarray(iddpm_loss.prior_bits(levels, x0))}
  )


def _posterior_variance(process: _Process) -> np.ndarray:
  return timesteps.respaced(process.chain, process.times).posterior_variance


def _broadcast(values: np.ndarray, like: jax.Array) -> jax.Array:
  rows = gaussian.per_example(jnp.asarray(values, jnp.float32), like)
  return jnp.broadcast_to(rows, like.shape)


def analytic(
  x: jax.Array, level: levels_lib.Levels, variance: str
) -> jax.Array:
  """Returns the output of the network of the recorded loops."""
  moved = jnp.roll(x, 1, axis=-1)
  value = jnp.tanh(0.8 * x) + 0.2 * jnp.sin(6 * level.time / 1000) * moved
  if variance != 'learned_range':
    return value
  return jnp.concatenate([value, jnp.sin(x + level.time / 1000)], axis=-1)


def _loops(case: families.Case, process: _Process) -> dict[str, np.ndarray]:
  """Whole sampling runs of the analytic network of the recorded cases."""
  settings = process.settings
  x_T = jnp.asarray(chains.nhwc(case.inputs['x_T']))

  def denoise(x, level, context, first):
    del context, first
    value = analytic(x, level, settings.variance)
    return levels_lib.Prediction.of(settings.parameterization, x, value, level)

  stage = sampling.Stage(
    segments=(sampling.Segment(levels=process.levels, denoise=denoise),),
    enter=lambda state, normal: (normal(x_T.shape), None),
    leave=lambda state, x, x0, context: [*state, x],
  )

  def sample(solver, *steps):
    noise = sampling.Noise.recorded([x_T], steps)
    _, (trace,) = sampling.run([stage], solver, noise, trace=True)
    return trace.x

  ancestral = ddpm.DDPM(variance=settings.variance)
  outputs = {'ddim_sample_loop/x': jax.jit(lambda: sample(ddim.DDIM()))()}
  if 'loop_noise' in case.inputs:
    steps = jnp.asarray(chains.nhwc(case.inputs['loop_noise']))
    outputs['p_sample_loop/x'] = jax.jit(lambda s: sample(ancestral, s))(steps)
  return {name: chains.nchw(x) for name, x in outputs.items()}
