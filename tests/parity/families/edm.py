"""Families `edm.precond` and `edm.sampler`.

NVlabs/edm: training/networks.py, training/loss.py and generate.py around an
analytic network without weights, through the library's preconditionings, its
loss and its one sampler.
"""

import ast
from collections.abc import Mapping
import math
import re
from typing import Any

import jax
from jax.experimental import io_callback
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import edm_loss
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion.solvers import heun
from tests.parity import families
from tests.parity.families import chains


# Official class -> our name, and its arguments -> ours.
_VP = {'beta_d': 'beta_d', 'beta_min': 'beta_min', 'epsilon_t': 'epsilon_t'}
_SIGMAS = {'sigma_min': 'sigma_min', 'sigma_max': 'sigma_max'}
_CLASSES = {
  'VPPrecond': ('vp', {**_VP, 'M': 'length'}),
  'VEPrecond': ('ve', _SIGMAS),
  'iDDPMPrecond': ('iddpm', {'C_1': 'c1', 'C_2': 'c2', 'M': 'length'}),
  'EDMPrecond': ('edm', {**_SIGMAS, 'sigma_data': 'sigma_data'}),
}
_LOSSES = {
  'VPLoss': ('vp', _VP),
  'VELoss': ('ve', _SIGMAS),
  'EDMLoss': (
    'edm',
    {'P_mean': 'mean', 'P_std': 'std', 'sigma_data': 'sigma_data'},
  ),
}
_LOSS_OF = {'vp': 'VPLoss', 've': 'VELoss', 'edm': 'EDMLoss'}
# Arguments of the official wrappers that the analytic network has no use for.
_SHAPE = ('img_resolution', 'img_channels')
_NOTHING = {'label_dim': 0, 'use_fp16': False}
# Noise that both samplers add anew.
_CHURN = {
  'S_churn': 'amount',
  'S_min': 'low',
  'S_max': 'high',
  'S_noise': 'noise',
}
# Where the steps lie: both samplers have the first, the ablations the rest.
_SAMPLER = {**_SIGMAS, 'rho': 'rho'}
_ABLATION = {
  **_SAMPLER,
  'discretization': 'discretization',
  'schedule': 'schedule',
  'scaling': 'scaling',
  'epsilon_s': 'epsilon_s',
  'C_1': 'c1',
  'C_2': 'c2',
  'M': 'length',
  'alpha': 'alpha',
}
_ORDERS = {'euler': 1, 'heun': 2}
_FUNCTIONS = {'edm_sampler': _SAMPLER, 'ablation_sampler': _ABLATION}


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes the recorded outputs of either family.

  Raises:
    Unsupported: an option that we do not have.
    KeyError: an input that the config needs is not there.
  """
  try:
    return _precond(case) if case.family == 'edm.precond' else _sampler(case)
  except families.Unsupported:
    raise
  except ValueError as error:
    raise families.Unsupported(str(error)) from error


def network(x: jax.Array, c_noise: jax.Array) -> jax.Array:
  """The analytic network of the recorded cases, (B, H, W, C)."""
  c = jnp.reshape(c_noise, (-1, 1, 1, 1))
  bent = jnp.tanh(0.7 * x + 0.3 * jnp.sin(c))
  return bent + 0.1 * jnp.cos(0.5 * c) * jnp.roll(x, 1, axis=-1)


def _named(
  arguments: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
  """Renames arguments, None is left out as the default.

  Raises:
    Unsupported: an unknown argument.
  """
  unknown = sorted(arguments.keys() - names.keys())
  if unknown:
    raise families.Unsupported(f'unknown arguments: {unknown}')
  return {
    names[k]: math.inf if v == 'inf' else v
    for k, v in arguments.items()
    if v is not None
  }


def _precond(case: families.Case) -> dict[str, np.ndarray]:
  arguments = dict(case.config)
  kind = arguments.pop('class', None)
  if kind not in _CLASSES:
    raise families.Unsupported(f'class {kind!r}; known: {sorted(_CLASSES)}')
  for name in _SHAPE:
    arguments.pop(name, None)
  for name, value in _NOTHING.items():
    if arguments.pop(name, value) != value:
      raise families.Unsupported(f'{name} other than {value!r}')
  name, renamed = _CLASSES[kind]
  precond = edm.make_preconditioning(name, **_named(arguments, renamed))
  x = jnp.asarray(chains.nhwc(case.inputs['x']))
  sigma = jnp.asarray(case.inputs['sigma'])
  calls = []

  def net(x, c_noise):
    raw = network(x, c_noise)
    if name == 'iddpm':  # a learned variance, which nothing here reads
      raw = jnp.concatenate([raw, x], axis=-1)
    calls.append((x, raw))
    return raw

  clean = edm.denoise(precond, net, x, sigma)
  high = precond.sigma_max
  outputs = {
    'D': chains.nchw(clean),
    'net_in': chains.nchw(calls[0][0]),
    'F': chains.nchw(calls[0][1]),
    'c_noise': np.asarray(precond.c_noise(sigma)),
    'round_sigma': np.asarray(precond.round_sigma(sigma)),
    'sigma_min': np.asarray([precond.sigma_min]),
    'sigma_max': np.asarray([high if math.isfinite(high) else -1.0]),
    'c_skip': np.asarray(precond.c_skip(sigma)),
    'c_out': np.asarray(precond.c_out(sigma)),
    'c_in': np.asarray(precond.c_in(sigma)),
  }
  if isinstance(precond, edm.IDDPM):
    outputs['u'] = precond.sigmas
  if 'loss_images' in case.inputs:
    outputs['loss'] = _loss(case, name, precond)
  return outputs


def _loss(
  case: families.Case, name: str, precond: edm.Preconditioning
) -> np.ndarray:
  """The unreduced loss; its arguments stand in the notes alone."""
  found = re.search(r'\b(\w+Loss)\((\{.*?\})\)', case.notes)
  kind = found[1] if found else _LOSS_OF.get(name, name)
  if kind not in _LOSSES:
    raise families.Unsupported(f'loss {kind!r}; known: {sorted(_LOSSES)}')
  arguments = ast.literal_eval(found[2]) if found else {}
  name, renamed = _LOSSES[kind]
  distribution = edm_loss.make_distribution(name, **_named(arguments, renamed))
  errors = edm_loss.weighted_errors(
    lambda x, sigma: edm.denoise(precond, network, x, sigma),
    distribution,
    jnp.asarray(chains.nhwc(case.inputs['loss_images'])),
    jnp.asarray(case.inputs['loss_rnd']).reshape(-1),
    jnp.asarray(chains.nhwc(case.inputs['loss_eps'])),
  )
  return chains.nchw(errors)


def _sampler(case: families.Case) -> dict[str, np.ndarray]:
  arguments = dict(case.config)
  function = arguments.pop('function', None)
  if function not in _FUNCTIONS:
    raise families.Unsupported(
      f'function {function!r}; known: {sorted(_FUNCTIONS)}'
    )
  precond = edm.EDM(sigma_data=float(arguments.pop('sigma_data', 0.5)))
  steps = int(arguments.pop('num_steps', 18))
  method = arguments.pop('solver', 'heun')
  if method not in _ORDERS or (method != 'heun' and function == 'edm_sampler'):
    raise families.Unsupported(f'solver {method!r}')
  churn = edm_timesteps.Churn(
    **_named({k: arguments.pop(k) for k in _CHURN if k in arguments}, _CHURN)
  )
  grid = edm_timesteps.EdmTimesteps(
    **_named(arguments, _FUNCTIONS[function]), churn=churn
  )
  solver = heun.Heun(
    order=_ORDERS[method], alpha=grid.alpha, has_churn=churn.amount > 0
  )
  levels = grid.levels(precond, steps)
  latents = jnp.asarray(chains.nhwc(case.inputs['latents']))
  noise = []
  if solver.has_churn:
    noise = [jnp.asarray(chains.nhwc(case.inputs['noise']))]
  calls: list[tuple[np.ndarray, ...]] = []

  def record(*call):
    calls.append(tuple(np.asarray(part) for part in call))

  def denoise(x, level, context, first):
    del context, first
    prediction = edm.predict(precond, network, x, level)
    sigma = level.sigma / level.alpha
    io_callback(
      record, None, sigma, x / level.alpha, prediction.x0, ordered=True
    )
    return prediction

  stage = sampling.Stage(
    segments=(sampling.Segment(levels=levels, denoise=denoise),),
    enter=lambda state, normal: (
      levels.initial_std * normal(latents.shape),
      None,
    ),
    leave=lambda state, x, x0, context: [*state, x],
  )

  def sample(latents, noise):
    recorded = sampling.Noise.recorded([latents], noise)
    return sampling.run([stage], solver, recorded, trace=True)

  (x,), (trace,) = jax.block_until_ready(jax.jit(sample)(latents, noise))
  jax.effects_barrier()
  sigmas, inputs, clean = (np.stack(part) for part in zip(*calls, strict=True))
  return {
    'x': chains.nchw(x),
    'x_t': chains.nchw(trace.x),
    'eval_sigma': sigmas,
    'eval_x': chains.nchw(inputs),
    'eval_D': chains.nchw(clean),
  }
