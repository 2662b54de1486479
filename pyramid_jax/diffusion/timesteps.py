"""Where on a discrete chain the steps of a sampler lie, whatever the solver."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from pyramid_jax.diffusion import checks
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
  'leading',
  'trailing',
  'linspace',
  'leading_inner',
)
# Where a sweep ends: as its spacing has it, clean, or at the chain's first
# level.
ENDS = ('auto', 'clean', 'first')
# Spacings whose sweep ends at the first level where the end is 'auto'.
_TO_FIRST = ('official', 'quad', 'log_snr', 'leading')


def uniform_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns the official DDIM time steps, ascending.

  `range(0, T, T // S) + 1` of ldm/modules/diffusionmodules/util.py: T // S may
  give more than S steps; ValueError where it would reach index T.
  """
  checks.check_steps(steps, length)
  times = np.arange(0, length, length // steps) + 1
  if times[-1] >= length:
    raise ValueError(
      f'{steps} sampling steps: the official spacing of {length} levels would'
      f' reach level {times[-1]}; take a divisor of {length} below {length},'
      " such as 10, 20, 25, 50, 100, 200, 250 of 1000, or spacing 'exact'"
    )
  return times


def leading_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns `steps` ascending indices, T // S apart, from 1.

  'leading' of huggingface/diffusers with `steps_offset` 1: the official DDIM
  time steps where S divides T, else fewer of them.
  """
  checks.check_steps(steps, length - 1)
  return np.arange(steps) * (length // steps) + 1


def trailing_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns `steps` ascending indices to T - 1, evenly spread.

  'trailing' of huggingface/diffusers (arXiv:2305.08891, table 2).
  """
  checks.check_steps(steps, length)
  falling = np.round(np.arange(steps) * -(length / steps) + length)
  return falling.astype(np.int64)[::-1] - 1


def spread_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns `steps` ascending indices from 0 to length - 1, evenly spread."""
  checks.check_steps(steps, length)
  if steps == 1:
    return np.array([length - 1])
  return np.round(np.linspace(0, length - 1, steps)).astype(np.int64)


def quadratic_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns the official quadratic DDIM time steps, ascending to 0.8 T.

  `ddim_discretize` = 'quad' of ldm/modules/diffusionmodules/util.py; the first
  may repeat.
  """
  checks.check_steps(steps, length)
  return (np.linspace(0, np.sqrt(0.8 * length), steps) ** 2).astype(int) + 1


def log_snr_timesteps(chain: Chain, steps: int) -> np.ndarray:
  """Returns `steps` + 1 indices from 0 to T - 1, even in log(alpha / sigma).

  Where rounding would repeat an index (many steps, little noise), the next one
  is taken.
  """
  checks.check_steps(steps, chain.length - 1)
  bar = chain.alphas_bar
  snr = np.log(bar) - np.log1p(-bar)
  even = np.linspace(snr[0], snr[-1], steps + 1)
  places = np.round(np.interp(-even, -snr, np.arange(chain.length)))
  order = np.arange(steps + 1)
  times = order + np.maximum.accumulate(places.astype(int) - order)
  return np.minimum(times, chain.length - 1 - order[::-1])


def space_timesteps(length: int, sections: str | Sequence[int]) -> np.ndarray:
  """Returns the levels that ADM keeps of a chain, ascending indices.

  Matches openai/guided-diffusion: guided_diffusion/respace.py. Each section
  keeps its count of levels of an equal part of the chain, the first parts
  longer by one where it does not divide, evenly spread from first to last.

  Args:
    length: T, levels of the chain.
    sections: counts, as numbers or as a text with commas; 'ddimN' keeps N
      levels at the smallest whole stride that gives N; '' keeps all.

  Raises:
    ValueError: not a count, or one that the rule cannot serve.
  """
  if isinstance(sections, str):
    if sections.startswith('ddim'):
      return _strided(length, *_counts([sections.removeprefix('ddim')]))
    sections = _counts(sections.split(',') if sections else [length])
  counts = _counts(sections)
  kept: list[int] = []
  start = 0
  for index, count in enumerate(counts):
    size = length // len(counts) + (index < length % len(counts))
    if count > size:
      raise ValueError(
        f'respacing {_text(counts)!r}: a section of {size} levels cannot keep'
        f' {count}; allowed are 1..{size}'
      )
    stride, place = (size - 1) / max(1, count - 1), 0.0
    for _ in range(count):  # a running sum, rounded half to even
      kept.append(start + round(place))
      place += stride
    start += size
  return np.array(kept)


def _counts(sections: Sequence[int | str]) -> list[int]:
  for section in sections:
    if not str(section).strip().isdecimal() or int(section) < 1:
      raise ValueError(
        f'respacing {_text(sections)!r}: {section!r} is no number of steps;'
        " allowed are counts such as '250' or '90,60,60', or 'ddim50'"
      )
  return [int(section) for section in sections]


def _text(sections: Sequence[int | str]) -> str:
  return ','.join(str(section) for section in sections)


def _strided(length: int, count: int) -> np.ndarray:
  """Returns `count` levels at a whole stride from level 0."""
  strides = {len(range(0, length, s)): s for s in range(length - 1, 0, -1)}
  if count in strides:
    return np.arange(0, length, strides[count])
  around = [n for n in sorted(strides) if n < count][-1:]
  around += [n for n in sorted(strides) if n > count][:1]
  raise ValueError(
    f"respacing 'ddim{count}': no whole stride through {length} levels gives"
    f' {count} steps; the nearest that do: {_text(around)}'
  )


def karras_sigmas(
  steps: int, low: float, high: float, rho: float = 7.0
) -> np.ndarray:
  """Returns (S,) noise levels from high to low, even in sigma^(1/rho).

  arXiv:2206.00364, eq. 5, in float64.
  """
  ends = high ** (1 / rho), low ** (1 / rho)
  return (ends[0] + even(steps) * (ends[1] - ends[0])) ** rho


def even(steps: int) -> np.ndarray:
  """Returns (S,) numbers from 0 to 1."""
  return np.arange(steps) / max(1, steps - 1)


def spaced_levels(
  chain: Chain, steps: int, spacing: str, rho: float = 7.0, end: str = 'auto'
) -> Levels:
  """Returns the levels of a sweep.

  - 'official', 'quad': those of CompVis/latent-diffusion (`uniform_timesteps`,
    `quadratic_timesteps`), to the chain's first level, whose noise is left.
  - 'exact': exactly `steps` levels, 1..T, evenly spread from the chain's last
    to its first, and a clean end.
  - 'log_snr': evenly spread in the log signal-to-noise ratio, which solvers of
    higher order follow best, to the chain's first level.
  - 'karras': EDM's rule between the chain's ends, at times that are real
    numbers, and a clean end.
  - 'iddpm', 'strided': the rules 'S' and 'ddimS' of `respaced_levels`.
  - 'leading' (to the chain's first level) and 'trailing' (with a clean end):
    those of huggingface/diffusers, exactly `steps` levels. Of 'linspace' and
    'leading_inner', which its multistep solvers take, the end is clean.

  Args:
    chain: the trained chain.
    steps: S.
    spacing: one of `SPACINGS`.
    rho: the exponent of 'karras'.
    end: one of `ENDS`.

  Raises:
    ValueError: an unknown spacing, or a count or an end that the rule cannot
      serve.
  """
  checks.one_of('spacing', spacing, SPACINGS)
  checks.one_of('end', end, ENDS)
  to_first = end == 'first' or (end == 'auto' and spacing in _TO_FIRST)
  end_bar = chain.alphas_bar[0] if to_first else 1.0
  if spacing in ('iddpm', 'strided'):
    if to_first:
      raise ValueError(f"end is 'first', but spacing {spacing!r} ends clean")
    rule = 'ddim' if spacing == 'strided' else ''
    return respaced_levels(chain, f'{rule}{steps}')
  if spacing == 'karras':
    return _karras_levels(chain, steps, rho, end_bar)
  if spacing == 'log_snr':
    times = log_snr_timesteps(chain, steps)[1:]
  else:
    times = _TIMES[spacing](chain.length, steps)
  return levels(chain, times, end_bar)


# Rules that only the number of levels matters to.
_TIMES = {
  'official': uniform_timesteps,
  'quad': quadratic_timesteps,
  'exact': spread_timesteps,
  'leading': leading_timesteps,
  'trailing': trailing_timesteps,
  # Without the lowest of S + 1, where their solvers would end.
  'linspace': lambda length, steps: spread_timesteps(length, steps + 1)[1:],
  'leading_inner': lambda length, steps: leading_timesteps(length, steps + 1)[
    1:
  ],
}


def _karras_levels(
  chain: Chain, steps: int, rho: float, end_bar: float
) -> Levels:
  """Returns the levels of 'karras', and an end at `end_bar`.

  Times interpolate the logarithm of sigma / alpha of the chain.
  """
  checks.check_steps(steps)
  bar = chain.alphas_bar
  ratios = np.sqrt((1.0 - bar) / bar)
  sigmas = karras_sigmas(steps, ratios[0], ratios[-1], rho)
  times = np.interp(np.log(sigmas), np.log(ratios), np.arange(chain.length))
  alpha = 1.0 / np.sqrt(1.0 + sigmas**2)
  return levels_lib.make(
    time=np.append(times, times[-1]),
    alpha=np.append(alpha, np.sqrt(end_bar)),
    sigma=np.append(sigmas * alpha, np.sqrt(1.0 - end_bar)),
    part=np.append(times, times[-1]) / chain.length,
    is_trained=np.arange(steps + 1) < steps,
  )


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
  given the index in the long chain; the sweep ends clean and the last step has
  the log variance of the one before it, not that of no noise.

  Args:
    chain: the trained chain.
    sections: see `space_timesteps`.
    rescale: give the network the index of a chain of 1000 (a real number).
  """
  times = space_timesteps(chain.length, sections)
  rows = levels(chain, times, 1.0)
  variance: Any = np.array(rows.log_variance)
  if len(times) > 1:
    variance[-2] = variance[-3]
  time = rows.time * (1000.0 / chain.length) if rescale else rows.time
  return dataclasses.replace(rows, log_variance=variance, time=time)


def levels(chain: Chain, times: np.ndarray, end_bar: float) -> Levels:
  """Tabulates the levels of ascending `times` for a falling sweep.

  Args:
    chain: the trained chain.
    times: (S,) ascending indices into it.
    end_bar: alphas_bar of the end row, 1 for a clean end; its time repeats the
      last one (PLMS may evaluate the network there).
  """
  bar = np.append(chain.alphas_bar[times][::-1], end_bar)
  before = bar[1:]
  beta = 1.0 - bar[:-1] / before
  variance = chain.step_variance(beta, before, bar[:-1])
  time = np.append(times[::-1], times[0])
  return levels_lib.make(
    time=time,
    alpha=np.sqrt(bar),
    sigma=np.sqrt(1.0 - bar),
    part=time / chain.length,
    is_trained=np.arange(len(time)) < len(times),
    logs=[
      np.append(np.log(np.maximum(value, 1e-20)), 0.0)
      for value in (beta, variance)
    ],
  )
