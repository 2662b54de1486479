"""The noise levels of a stage of Laplacian diffusion, tabulated.

Every number that belongs to a band has a last axis of K bands, finest first:
those that a stage has. Deviations are those of the stage's own pixels.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import timesteps


Levels = levels_lib.Levels
float32 = levels_lib.float32
# 'karras' is even in sigma^(1/rho), 'log_snr' in log sigma.
SPACINGS = ('karras', 'log_snr')


def sigmas(
  process: laplacian.Process,
  stage: int,
  steps: int,
  rho: float = 7.0,
  spacing: str = 'karras',
) -> np.ndarray:
  """Returns the (S+1,) falling levels of a stage, full-resolution clock.

  From T_s to T_{s-1}, both exact; the finest stage goes to `sigma_min` and
  then, by one step more, to 0.

  Args:
    process: of the stages.
    stage: s, 1 is the finest.
    steps: S.
    rho: of 'karras', how much the levels crowd at low noise.
    spacing: one of `SPACINGS`.

  Raises:
    ValueError: no step, or an unknown spacing.
  """
  if steps < 1:
    raise ValueError(f'sampling steps {steps} must be at least 1')
  if spacing not in SPACINGS:
    raise ValueError(f'spacing {spacing!r} is not one of {SPACINGS}')
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
  """Returns the levels of a sweep.

  Args:
    process: of the stages.
    stage: s, 1 is the finest.
    sigma: (S+1,) falling, within the stage's range, on the full-resolution
      clock; the last may be 0.
    churn: noise added on the way; None without.
  """
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
  at, ahead = point(process, stage, sigma), np.append(sigma[1:], sigma[-1])
  return dataclasses.replace(
    at,
    hat=point(process, stage, hat),
    mid=point(process, stage, ahead),
    h=float32((ahead - hat) / unit),
    keep=float32(keep),
    noise=float32(churn.noise * np.sqrt(added) / unit),
    initial_std=float(at.sigma[0]),
  )


def point(process: laplacian.Process, stage: int, sigma: np.ndarray) -> Levels:
  """Tabulates levels (S+1,) on the full-resolution clock."""
  unit = 2.0 ** (stage - 1)
  # Nothing is asked of a network at 0.
  safe = np.where(sigma > 0, sigma, process.sigma_min)
  alpha = process.alphas(sigma)[:, stage - 1 :]
  logs = (np.zeros_like(alpha),) * 2
  if np.all(np.diff(sigma) < 0):  # rows in sampling order
    logs = levels_lib.ancestral_logs(alpha, sigma / unit)
  return Levels(
    time=float32(np.log(safe / unit) / 4.0),
    alpha=float32(alpha),
    sigma=float32(sigma / unit),
    part=float32(np.arctan(sigma / unit) * (2.0 / np.pi)),
    log_beta=float32(logs[0]),
    log_variance=float32(logs[1]),
    t=float32(sigma / unit),
    frame=float32(np.ones_like(sigma)),
    dalpha=float32(unit * process.dalphas(safe, stage)[:, stage - 1 :]),
    dsigma=float32(np.ones_like(sigma)),
    is_trained=levels_lib.flags(sigma > 0),
    h=float32(np.append(np.diff(sigma), 0.0) / unit),
    has_bands=True,
  )


def sweep(
  process: laplacian.Process,
  steps: Sequence[int],
  rho: float = 7.0,
  churn: edm_timesteps.Churn | None = None,
  spacing: str = 'karras',
) -> list[Levels]:
  """Returns the levels of all stages, coarse to fine.

  Args:
    process: of the stages.
    steps: of each stage, coarse to fine.
    rho: see `sigmas`.
    churn: see `tabulate`.
    spacing: see `sigmas`.

  Raises:
    ValueError: steps for another number of stages.
  """
  if len(steps) != process.levels:
    raise ValueError(
      f'steps {tuple(steps)} must be one number or {process.levels}, coarse to'
      ' fine'
    )
  stages = range(process.levels, 0, -1)
  return [
    tabulate(process, s, sigmas(process, s, count, rho, spacing), churn)
    for s, count in zip(stages, steps, strict=True)
  ]
