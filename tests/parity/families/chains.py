"""What recorded samplers share: the official chain and its tables."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import schedules
from pyramid_jax.interop import latent_checkpoint
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


# The official buffers of a chain.
buffers = latent_checkpoint.schedule_buffers


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
