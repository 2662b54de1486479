"""Where on a discrete chain a sampler's steps lie, whatever takes them."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from pyramid_jax.diffusion import iddpm_timesteps
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import schedules


Chain = schedules.Chain
Levels = levels_lib.Levels
SPACINGS = (
  'official',
  'exact',
  'log_snr',
  'karras',
  'quad',
  'iddpm',
  'strided',
)
float32 = levels_lib.float32


def uniform_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns the official DDIM time steps, ascending.

  `range(0, T, T // S) + 1` of ldm/modules/diffusionmodules/util.py: T // S may
  give more than S steps, and counts that would reach index T are refused.

  Raises:
    ValueError: steps out of range, or a count that the rule cannot serve.
  """
  if not 1 <= steps <= length:
    raise ValueError(f'sampling steps {steps} must lie in 1..{length}')
  times = np.arange(0, length, length // steps) + 1
  if times[-1] >= length:
    raise ValueError(
      f'{steps} sampling steps: the official spacing of {length} levels would'
      f' reach level {times[-1]}; take a divisor of {length} below {length},'
      " such as 10, 20, 25, 50, 100, 200, 250 of 1000, or spacing 'exact'"
    )
  return times


def spread_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns `steps` ascending indices from 0 to length - 1, evenly spread."""
  if not 1 <= steps <= length:
    raise ValueError(f'sampling steps {steps} must lie in 1..{length}')
  if steps == 1:
    return np.array([length - 1])
  return np.round(np.linspace(0, length - 1, steps)).astype(np.int64)


def quadratic_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns the official DDIM time steps that grow with the square, ascending.

  The first of them may repeat; they end near 0.8 T. From
  ldm/modules/diffusionmodules/util.py, `ddim_discretize` = 'quad'.
  """
  if not 1 <= steps <= length:
    raise ValueError(f'sampling steps {steps} must lie in 1..{length}')
  return (np.linspace(0, np.sqrt(0.8 * length), steps) ** 2).astype(int) + 1


def log_snr_timesteps(chain: Chain, steps: int) -> np.ndarray:
  """Returns `steps` + 1 indices from 0 to T - 1, even in log(alpha / sigma).

  Levels are whole numbers: where the rule would repeat one (many steps, little
  noise) it takes the next.
  """
  if not 1 <= steps < chain.length:
    raise ValueError(
      f'sampling steps {steps} must lie in 1..{chain.length - 1}'
    )
  bar = chain.alphas_bar
  snr = np.log(bar) - np.log1p(-bar)
  even = np.linspace(snr[0], snr[-1], steps + 1)
  places = np.round(np.interp(-even, -snr, np.arange(chain.length)))
  order = np.arange(steps + 1)
  times = order + np.maximum.accumulate(places.astype(int) - order)
  return np.minimum(times, chain.length - 1 - order[::-1])


def karras_sigmas(
  steps: int, low: float, high: float, rho: float = 7.0
) -> np.ndarray:
  """Returns (S,) falling noise-to-signal ratios, even in sigma^(1/rho).

  arXiv:2206.00364, eq. 5, in float64.

  Args:
    steps: S.
    low: the last.
    high: the first.
    rho: how much they crowd at low noise.
  """
  ends = high ** (1 / rho), low ** (1 / rho)
  return (ends[0] + even(steps) * (ends[1] - ends[0])) ** rho


def even(steps: int) -> np.ndarray:
  """Returns (S,) numbers from 0 to 1."""
  return np.arange(steps) / max(1, steps - 1)


def spaced_levels(
  chain: Chain, steps: int, spacing: str, rho: float = 7.0
) -> Levels:
  """Returns the levels of a sweep.

  'official' and 'quad' are the rules of CompVis/latent-diffusion: the number
  of steps of the former may differ from `steps` (`uniform_timesteps`), and the
  sample keeps the noise of the chain's first level. 'exact' takes exactly
  `steps` levels, any number of 1..T, evenly spread from the last one of the
  chain to the first, and ends clean. 'log_snr' takes exactly `steps` levels
  evenly spread in the log signal-to-noise ratio, which solvers of higher order
  follow best, and ends at the chain's first level. 'karras' takes `steps`
  levels between the chain's ends by the rule of EDM, at times that are real
  numbers, and ends clean. 'iddpm' and 'strided' are the rules 'S' and 'ddimS'
  of iDDPM and ADM and end clean (`respaced_levels`).

  Args:
    chain: the trained chain.
    steps: S.
    spacing: one of `SPACINGS`.
    rho: of 'karras', how much the levels crowd at low noise.

  Raises:
    ValueError: an unknown spacing, or a count that the rule cannot serve.
  """
  if spacing not in SPACINGS:
    raise ValueError(f'spacing {spacing!r} is not one of {SPACINGS}')
  if spacing in ('iddpm', 'strided'):
    rule = 'ddim' if spacing == 'strided' else ''
    return respaced_levels(chain, f'{rule}{steps}')
  if spacing == 'karras':
    return karras_levels(chain, steps, rho)
  if spacing == 'exact':
    return levels(chain, spread_timesteps(chain.length, steps), 1.0)
  if spacing == 'log_snr':
    times = log_snr_timesteps(chain, steps)
    return levels(chain, times[1:], chain.alphas_bar[0])
  count = {'official': uniform_timesteps, 'quad': quadratic_timesteps}[spacing]
  return levels(chain, count(chain.length, steps), chain.alphas_bar[0])


def karras_levels(chain: Chain, steps: int, rho: float = 7.0) -> Levels:
  """Returns the levels of 'karras', see `spaced_levels`.

  The network is given the time at which the chain, its logarithm of sigma /
  alpha interpolated, has the level.

  Raises:
    ValueError: no step.
  """
  if steps < 1:
    raise ValueError(f'sampling steps {steps} must be at least 1')
  bar = chain.alphas_bar
  ratios = np.sqrt((1.0 - bar) / bar)
  sigmas = karras_sigmas(steps, ratios[0], ratios[-1], rho)
  times = np.interp(np.log(sigmas), np.log(ratios), np.arange(chain.length))
  alpha = np.append(1.0 / np.sqrt(1.0 + sigmas**2), 1.0)
  sigma = np.append(sigmas * alpha[:-1], 0.0)
  logs = levels_lib.ancestral_logs(alpha, sigma)
  return _rows(chain, np.append(times, times[-1]), alpha, sigma, logs)


def respaced(chain: Chain, times: np.ndarray) -> Chain:
  """Returns the short chain of ascending `times`, each level as noisy."""
  bar = chain.alphas_bar[times]
  betas = 1.0 - bar / np.append(1.0, bar[:-1])
  return dataclasses.replace(chain, betas=betas)


def respaced_levels(
  chain: Chain, sections: str | Sequence[int] = '', rescale: bool = False
) -> Levels:
  """Returns the levels of a respaced chain, as ADM samples it.

  Matches openai/guided-diffusion: guided_diffusion/respace.py. The network is
  told the index in the long chain; the sweep ends clean and the last step has
  the log variance of the one before it, not that of no noise.

  Args:
    chain: the trained chain.
    sections: see `iddpm_timesteps.space_timesteps`; '' keeps every level.
    rescale: tell the network the index of a chain of 1000 (a real number).

  Raises:
    ValueError: sections that the rule cannot serve.
  """
  times = iddpm_timesteps.space_timesteps(chain.length, sections)
  rows = levels(chain, times, 1.0)
  variance: Any = np.array(rows.log_variance)
  if len(times) > 1:
    variance[-2] = variance[-3]
  rows = dataclasses.replace(rows, log_variance=variance)
  if not rescale:
    return rows
  time = rows.time * (1000.0 / chain.length)
  return dataclasses.replace(rows, time=time)


def levels(chain: Chain, times: np.ndarray, end_bar: float) -> Levels:
  """Tabulates the levels of ascending `times` for a falling sweep.

  Args:
    chain: the trained chain.
    times: (S,) ascending indices into it.
    end_bar: alphas_bar of the end level: 1 for a clean end, or
      `chain.alphas_bar[0]` for the official DDIM.

  Returns:
    `Levels` of S+1 rows, highest noise first, on the host. The end row
    repeats the last time (PLMS may evaluate the network there).
  """
  bar = np.append(chain.alphas_bar[times][::-1], end_bar)
  before = bar[1:]
  beta = 1.0 - bar[:-1] / before
  variance = chain.step_variance(beta, before, bar[:-1])
  logs = [
    np.append(np.log(np.maximum(value, 1e-20)), 0.0)
    for value in (beta, variance)
  ]
  time = np.append(times[::-1], times[0])
  return _rows(chain, time, np.sqrt(bar), np.sqrt(1.0 - bar), logs)


def _rows(
  chain: Chain,
  time: np.ndarray,
  alpha: np.ndarray,
  sigma: np.ndarray,
  logs: Sequence[np.ndarray],
) -> Levels:
  """Rounds a table; a DDIM step is Euler's of x / alpha in sigma / alpha."""
  zero, one = np.zeros_like(alpha), np.ones_like(alpha)
  return Levels(
    time=float32(time),
    alpha=float32(alpha),
    sigma=float32(sigma),
    part=float32(time / chain.length),
    log_beta=float32(logs[0]),
    log_variance=float32(logs[1]),
    t=float32(sigma / alpha),
    frame=float32(alpha),
    dalpha=float32(zero),
    dsigma=float32(one),
    is_trained=levels_lib.flags(np.arange(len(time)) < len(time) - 1),
    h=float32(np.append(np.diff(sigma / alpha), 0.0)),
  )
