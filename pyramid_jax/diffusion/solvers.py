"""Solvers by name; DDIM, PLMS, DDPM and Heun are here. See `stepping`."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import continuous
from pyramid_jax.diffusion import exponential
from pyramid_jax.diffusion import gaussian_bands
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import stepping


Levels = schedules.Levels
Prediction = stepping.Prediction
Carry = stepping.Carry
Denoise = stepping.Denoise
Draw = stepping.Draw
Solver = stepping.Solver
row = stepping.row


@dataclasses.dataclass(frozen=True)
class DDIM(stepping.Spaced, stepping.Scanned):
  """DDIM (arXiv:2010.02502 eq. 12).

  Matches CompVis/latent-diffusion: ldm/models/diffusion/ddim.py.

  Attributes:
    eta: 0 deterministic, 1 as noisy as DDPM.
    spacing: of the levels, see `schedules.spaced_levels`.
    temperature: factor of the noise.
  """

  eta: float = 0.0
  spacing: str = 'official'
  temperature: float = 1.0

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    prediction = denoise(carry.x, level, True)
    update = functools.partial(
      ddim_update, prediction, level, next_level, self.eta
    )
    x = update(lambda: self.temperature * noise())
    mean = update(lambda: jnp.zeros_like(x)) if self.eta else None
    return Carry(x=x, prediction=prediction, mean=mean)


def ddim_update(
  prediction: Prediction,
  level: Levels,
  next_level: Levels,
  eta: float,
  noise: Draw,
) -> jax.Array:
  """Returns the state at `next_level` (arXiv:2010.02502 eq. 12 and 16)."""
  if eta == 0:
    return stepping.euler(prediction, next_level)
  std = eta * level.renewed(next_level)
  along = jnp.sqrt(jnp.maximum(next_level.sigma**2 - std**2, 0.0))
  x = next_level.times(next_level.alpha, prediction.x0)
  x = x + next_level.times(along, prediction.eps)
  return x + next_level.times(std, noise())


def _improved_euler(
  now: Prediction,
  x: jax.Array,
  denoise: Denoise,
  level: Levels,
  next_level: Levels,
) -> Prediction:
  """Averages the noise of this level and that where an Euler step leads."""
  ahead = denoise(stepping.euler(now, next_level), next_level, False)
  return Prediction.from_eps(x, (now.eps + ahead.eps) / 2, level)


@dataclasses.dataclass(frozen=True)
class PLMS(stepping.Spaced):
  """Pseudo linear multistep (arXiv:2202.09778), fourth order.

  Matches CompVis/latent-diffusion: ldm/models/diffusion/plms.py: the first
  step is an improved Euler step with a second network call; the history is
  three network outputs.

  Attributes:
    spacing: of the levels, see `schedules.spaced_levels`.
  """

  spacing: str = 'official'

  def init(
    self, x: jax.Array, denoise: Denoise, levels: Levels
  ) -> tuple[Carry, int]:
    level, next_level = row(levels, 0), row(levels, 1)
    now = denoise(x, level, True)
    prediction = _improved_euler(now, x, denoise, level, next_level)
    past = jnp.zeros((3, *x.shape), x.dtype).at[0].set(now.eps)
    x = stepping.euler(prediction, next_level)
    return Carry(x, prediction, (jnp.ones((), jnp.int32), past)), 1

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    del noise
    now = denoise(carry.x, level, True)
    count, past = carry.history
    eps = _multistep(now.eps, past, count)
    prediction = Prediction.from_eps(carry.x, eps, level)
    x = stepping.euler(prediction, next_level)
    past = jnp.concatenate([now.eps[None], past[:2]])
    return Carry(x, prediction, (count + 1, past))


def _multistep(eps: jax.Array, past: jax.Array, count: jax.Array) -> jax.Array:
  """Combines the new output with `past` (3, ...), newest first."""
  table = np.array(
    [
      [3 / 2, -1 / 2, 0, 0],
      [23 / 12, -16 / 12, 5 / 12, 0],
      [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ],
    np.float32,
  )
  row = jnp.asarray(table)[jnp.clip(count - 1, 0, 2)]
  return row[0] * eps + jnp.tensordot(row[1:], past, axes=1)


@dataclasses.dataclass(frozen=True)
class DDPM(stepping.Spaced, stepping.Scanned):
  """Ancestral sampling (arXiv:2006.11239).

  All T levels when `steps` is T, else an even subset with the posterior of
  the shortened chain. Ends clean; the last step adds no noise.

  Attributes:
    temperature: factor of the noise.
    clip: keep the clean prediction in [-1, 1], for images, not for latents.
    variance: of a step, see `stepping.ancestral`.
    spacing: of the levels, see `schedules.spaced_levels`; one that ends clean.
  """

  temperature: float = 1.0
  clip: bool = False
  variance: str = 'fixed_small'
  spacing: str = 'exact'

  def __post_init__(self):
    stepping.check_variance(self.variance)

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    prediction, mean, log = stepping.ancestral(
      denoise(carry.x, level, True),
      carry.x,
      level,
      next_level,
      self.variance,
      self.clip,
    )
    std = jnp.where(next_level.sigma > 0, jnp.exp(0.5 * log), 0.0)
    x = mean + std * self.temperature * noise()
    return Carry(x=x, prediction=prediction, mean=mean)


@dataclasses.dataclass(frozen=True)
class Heun(stepping.Spaced, stepping.Scanned):
  """Heun's second order rule, two network calls a step, one in the last.

  In x / alpha as a function of sigma / alpha, where a DDIM step is an Euler
  step (arXiv:2206.00364, algorithm 1 without churn); the last step is Euler.

  Attributes:
    spacing: of the levels, see `schedules.spaced_levels`.
  """

  spacing: str = 'log_snr'

  def step(
    self,
    carry: Carry,
    denoise: Denoise,
    level: Levels,
    next_level: Levels,
    noise: Draw,
  ) -> Carry:
    del noise
    now = denoise(carry.x, level, True)
    better = jax.lax.cond(
      stepping.is_end(level, next_level),
      lambda: now,
      lambda: _improved_euler(now, carry.x, denoise, level, next_level),
    )
    return Carry(x=stepping.euler(better, next_level), prediction=now)


SOLVERS = ('ddim', 'plms', 'ddpm', 'dpmpp_2m', 'unipc', 'heun')
# Those that can go band by band, see `band_factors`.
BAND_METHODS = ('euler', 'heun', 'ddim', 'ancestral', 'dpmpp_2m')


def create(
  name: str,
  eta: float = 0.0,
  spacing: str = 'auto',
  temperature: float = 1.0,
  variance: str = 'fixed_small',
) -> Solver:
  """Returns a solver by name.

  Args:
    name: one of `SOLVERS`.
    eta: noise of DDIM.
    spacing: one of `schedules.SPACINGS`, or 'auto' for the one that suits the
      solver: 'official' for DDIM and PLMS, as published, 'log_snr' for those
      of second order. DDPM is exact unless it is one of ADM's, which also end
      clean.
    temperature: factor of the noise of DDIM and DDPM.
    variance: of the steps of DDPM, see `stepping.ancestral`.

  Raises:
    ValueError: unknown name or spacing, or noise where a solver has none.
  """
  if name not in SOLVERS:
    raise ValueError(f'sample.solver {name!r} is not one of {SOLVERS}')
  if spacing not in ('auto', *schedules.SPACINGS):
    raise ValueError(
      f'sample.spacing {spacing!r} is not one of'
      f' {("auto", *schedules.SPACINGS)}'
    )
  spaced = {} if spacing == 'auto' else {'spacing': spacing}
  if name == 'ddim':
    return DDIM(eta=eta, temperature=temperature, **spaced)
  if name == 'ddpm':
    clean = spacing if spacing in ('adm', 'strided') else 'exact'
    return DDPM(temperature=temperature, variance=variance, spacing=clean)
  if eta != 0:
    raise ValueError(f'sample.eta is {eta}, but {name} needs eta = 0')
  if temperature != 1:
    raise ValueError(
      f'sample.temperature is {temperature}, but {name} adds no noise'
    )
  if name == 'plms':
    return PLMS(**spaced)
  if spacing == 'quad':
    raise ValueError(f"sample.spacing 'quad' repeats levels: not for {name}")
  second_order: Mapping[str, Callable[..., Solver]] = {
    'heun': Heun,
    'dpmpp_2m': exponential.DPMSolverPP2M,
    'unipc': exponential.UniPC,
  }
  return second_order[name](**spaced)


def band_factors(process: Any, levels: Any, method: str) -> jax.Array:
  """Returns how well a sampler keeps the power of each band of Gaussian data.

  For data whose bands are Gaussian with the process's `band_rms`, the best
  denoiser multiplies each band by a number, and so does every step: the
  deviations at the end follow without drawing anything. The steps are those of
  the solver itself, run on one wave of each band.

  Args:
    process: a `laplacian.Process`.
    levels: of each stage, coarse to fine: `laplacian_levels.Levels`, or
      falling sigmas (S+1,) on the full-resolution clock.
    method: 'euler', 'heun', 'ddim', 'ancestral' (DDIM with eta = 1) or
      'dpmpp_2m'.

  Returns:
    (L,) deviations of the bands at the end over those of the data, finest
    first.

  Raises:
    ValueError: unknown method, or levels of another number of stages.
  """
  solver = per_band(method)
  return jax.jit(lambda: gaussian_bands.factors(process, levels, solver))()


def per_band(method: str, eta: float = 0.0, churn: float = 0.0) -> Solver:
  """Returns a solver that goes band by band.

  Args:
    method: one of `BAND_METHODS`.
    eta: noise of DDIM.
    churn: noise that Heun and Euler add anew; their levels hold how much.

  Raises:
    ValueError: another method, or noise where it has none.
  """
  if method not in BAND_METHODS:
    raise ValueError(
      f'method {method!r} is not one of {", ".join(BAND_METHODS)}'
    )
  if churn and method not in continuous.SOLVERS:
    raise ValueError(f'churn is {churn}, but {method} needs churn = 0')
  if method in continuous.SOLVERS:
    if eta:
      raise ValueError(f'eta is {eta}, but {method} needs eta = 0')
    return continuous.Heun(solver=method, churn=churn)
  if method == 'ancestral':
    return DDIM(eta=1.0)
  return create(method, eta)
