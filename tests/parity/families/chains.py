"""What recorded samplers share: the official chain and its tables."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import schedules
from tests.parity import families


# Official arguments of the chain -> ours.
ARGUMENTS = {
  'timesteps': 'timesteps',
  'beta_schedule': 'kind',
  'linear_start': 'linear_start',
  'linear_end': 'linear_end',
  'cosine_s': 'cosine_s',
  'v_posterior': 'v_posterior',
}
# Official names of beta schedules -> ours.
SCHEDULES = {
  'linear': 'scaled_linear',
  'sqrt_linear': 'linear',
  'cosine': 'cosine',
  'sqrt': 'sqrt',
}


def build(config: Mapping[str, Any]) -> schedules.Chain:
  """Returns the chain of official arguments; others are not looked at.

  Raises:
    Unsupported: an unknown schedule.
  """
  known = {ARGUMENTS[k]: v for k, v in config.items() if k in ARGUMENTS}
  kind = known.pop('kind', 'linear')
  if kind not in SCHEDULES:
    raise families.Unsupported(
      f'beta schedule {kind!r} is not one of {", ".join(SCHEDULES)}'
    )
  return schedules.make_chain(kind=SCHEDULES[kind], **known)


def buffers(chain: schedules.Chain) -> dict[str, np.ndarray]:
  """Returns the official buffers of a chain, (T,) each."""
  bar, variance = chain.alphas_bar, chain.posterior_variance
  of_x0, of_x = chain.posterior_mean
  return {
    'betas': chain.betas,
    'alphas_cumprod': bar,
    'alphas_cumprod_prev': np.append(1.0, bar[:-1]),
    'sqrt_alphas_cumprod': np.sqrt(bar),
    'sqrt_one_minus_alphas_cumprod': np.sqrt(1.0 - bar),
    'log_one_minus_alphas_cumprod': np.log(1.0 - bar),
    'sqrt_recip_alphas_cumprod': np.sqrt(1.0 / bar),
    'sqrt_recipm1_alphas_cumprod': np.sqrt(1.0 / bar - 1.0),
    'posterior_variance': variance,
    'posterior_log_variance_clipped': np.log(np.maximum(variance, 1e-20)),
    'posterior_mean_coef1': of_x0,
    'posterior_mean_coef2': of_x,
  }


def ddim_tables(
  chain: schedules.Chain, levels: levels_lib.Levels, eta: float
) -> dict[str, np.ndarray]:
  """Returns the official DDIM tables, ascending, of the levels that ran."""
  times = np.asarray(levels.time)[:-1][::-1].astype(np.int32)
  now = chain.alphas_bar[times]
  before = np.append(chain.alphas_bar[0], now[:-1])
  spread = (1.0 - before) / (1.0 - now) * (1.0 - now / before)
  return {
    'ddim_timesteps': times,
    'ddim_alphas': now,
    'ddim_alphas_prev': before,
    'ddim_sigmas': eta * np.sqrt(spread),
    'ddim_sqrt_one_minus_alphas': np.sqrt(1.0 - now),
  }


def nchw(x: jax.Array | np.ndarray) -> np.ndarray:
  """(..., H, W, C) -> (..., C, H, W)."""
  return np.moveaxis(np.asarray(x), -1, -3)


def nhwc(x: np.ndarray) -> np.ndarray:
  """(..., C, H, W) -> (..., H, W, C)."""
  return np.moveaxis(x, -3, -1)
