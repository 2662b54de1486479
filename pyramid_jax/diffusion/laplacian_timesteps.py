"""The noise levels of a stage of Laplacian diffusion, tabulated.

Every number that belongs to a band has a last axis of K bands, finest first:
those that a stage has. Deviations are those of the stage's own pixels.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import timesteps


Levels = levels_lib.Levels
# 'karras' is even in sigma^(1/rho), 'log_snr' in log sigma.
SPACINGS = ('karras', 'log_snr')


def sigmas(
  process: laplacian.Process,
  stage: int,
  steps: int,
  rho: float = 7.0,
  spacing: str = 'karras',
) -> np.ndarray:
  """Returns the (S+1,) falling full-resolution noise levels of a stage.

  From T_s to T_{s-1}, both exact; the finest stage goes to `sigma_min` and
  then, by one step more, to 0. `rho` is the exponent of 'karras'.

  Raises:
    ValueError: no step, or an unknown spacing.
  """
  checks.check_steps(steps)
  checks.one_of('spacing', spacing, SPACINGS)
  low, high = process.bounds(stage)
  if spacing == 'log_snr':
    grid = np.geomspace(high, low, steps + 1)
  else:
    grid = timesteps.karras_sigmas(steps + 1, low, high, rho)
  grid[0], grid[-1] = high, low
  return np.append(grid, 0.0) if stage == 1 else grid


def tabulate(
  process: laplacian.Process,
  stage: int,
  sigma: np.ndarray,
  churn: edm_timesteps.Churn | None = None,
) -> Levels:
  """Returns the levels of a stage at its falling `sigmas` (S+1,)."""
  churn = churn or edm_timesteps.Churn()
  sigma = np.asarray(sigma, float)
  gamma = churn.raised(sigma, len(sigma) - 1)
  high = process.bounds(stage)[1]
  hat = np.where(sigma >= high, sigma, np.minimum(sigma * (1 + gamma), high))
  here = process.alphas(sigma)[:, stage - 1 :]
  keep = np.divide(
    process.alphas(hat)[:, stage - 1 :],
    here,
    out=np.ones_like(here),
    where=(here > 0) & (hat > sigma)[:, None],
  )
  unit = 2.0 ** (stage - 1)
  added = np.maximum(hat[:, None] ** 2 - (keep * sigma[:, None]) ** 2, 0.0)
  at, ahead = _levels(process, stage, sigma), np.append(sigma[1:], sigma[-1])
  return dataclasses.replace(
    at,
    hat=_levels(process, stage, hat),
    mid=_levels(process, stage, ahead),
    h=levels_lib.float32((ahead - hat) / unit),
    keep=levels_lib.float32(keep),
    noise=levels_lib.float32(churn.noise * np.sqrt(added) / unit),
    initial_std=float(at.sigma[0]),
  )


def _levels(
  process: laplacian.Process, stage: int, sigma: np.ndarray
) -> Levels:
  """Tabulates (S+1,) full-resolution noise levels."""
  unit = 2.0 ** (stage - 1)
  # No network is called at 0.
  safe = np.where(sigma > 0, sigma, process.sigma_min)
  own = sigma / unit
  dalpha = unit * process.dalphas(safe, stage)[:, stage - 1 :]
  return levels_lib.make(
    time=np.log(safe / unit) / 4.0,
    alpha=process.alphas(sigma)[:, stage - 1 :],
    sigma=own,
    part=np.arctan(own) * (2.0 / np.pi),
    is_trained=sigma > 0,
    path=(own, dalpha, np.ones_like(own)),
  )


def sweep(
  process: laplacian.Process,
  steps: Sequence[int],
  rho: float = 7.0,
  churn: edm_timesteps.Churn | None = None,
  spacing: str = 'karras',
) -> list[Levels]:
  """Returns the levels of all stages; stages and steps are coarse to fine.

  Raises:
    ValueError: steps for another number of stages, no step, or an unknown
      spacing.
  """
  if len(steps) != process.levels:
    raise ValueError(
      f'steps {tuple(steps)} must be one number or {process.levels}, coarse to'
      ' fine'
    )
  return [
    tabulate(process, s, sigmas(process, s, count, rho, spacing), churn)
    for s, count in zip(range(process.levels, 0, -1), steps, strict=True)
  ]
